"""How lists and sizes read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import ROOT
from utils.runtime.console import list_names, one_line, say, size_text


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


def test_names_that_are_no_text_are_printed_with_escapes(capsys) -> None:
    say("a \udcff b")
    say("a \udcff\nb\r\x1b[2J c", error=True)
    assert capsys.readouterr() == ("a \\udcff b\n", "a \\udcff\\nb\\r\\x1b[2J c\n")
    assert one_line("plain \u3000 text") == "plain \u3000 text"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_is_gone_ends_nothing(stream: str) -> None:
    """As in `main.py | head -1`, or on a terminal that was closed."""
    code = (
        "from utils.runtime.console import say\n"
        "input()\n"
        f"for number in range(3): say('one', error={stream == 'stderr'})\n"
        f"say('the end', error={stream != 'stderr'})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    gone, other = process.stdout, process.stderr
    if stream == "stderr":
        gone, other = other, gone
    gone.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert other.read() == b"the end\n"
    assert process.wait(60) == 0
