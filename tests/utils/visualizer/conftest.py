from __future__ import annotations

from collections.abc import Callable

import pytest

from utils.visualizer import sender


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(sender, "PROBE_SECONDS", 0.2)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Gives all lines on stderr since the test began."""
    lines: list[str] = []

    def look() -> list[str]:
        lines.extend(capsys.readouterr().err.splitlines())
        return lines

    return look
