"""How lists and sizes read."""

from __future__ import annotations

import pytest

from utils.runtime.console import list_names, say, size_text


def test_long_lists_are_cut_and_the_rest_is_counted() -> None:
    assert list_names(["a", "b"]) == "a, b"
    assert list_names(["a", "b", "c", "d"], shown=2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"),
     (3 * 2**30, "3.0 GiB")],
)  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("one")
    say("two", error=True)
    assert capsys.readouterr() == ("one\n", "two\n")
