from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.utils.visualizer.dashboard.visdom_server import Server
from utils.visualizer.dashboard import sender


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


@pytest.fixture(scope="session")
def needs_visdom() -> None:
    pytest.importorskip(
        "visdom",
        reason="Visdom is not installed, so its server is NOT tested; see requirements-visdom.txt",
    )


@pytest.fixture(scope="session")
def server(needs_visdom: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(needs_visdom: None, tmp_path: Path) -> Iterator[Server]:
    """A server that a test may stop."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()
