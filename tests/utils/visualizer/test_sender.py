"""The background sender, against clients that fail; test_dashboard.py has a real server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from utils.visualizer import sender


def wait_for(condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_what_was_on_its_way_when_the_server_failed_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    class Client:
        def win_exists(self, win: str, env: str) -> bool:
            return True

    monkeypatch.setattr(sender, "_connect", lambda port, env: Client())
    tries: list[int] = []

    def job(client: Client) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise sender.Unreachable("time-out")
        return "Loss"

    background = sender.Sender(1, "main")
    background.put(("main", "Loss"), job)
    wait_for(lambda: len(tries) == 2)
    background.close(5)
    assert len(said()) == 1


def test_server_that_fails_at_the_look_for_a_restart_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    class Client:
        healthy = False

        def win_exists(self, win: str, env: str) -> bool:
            if not self.healthy:
                Client.healthy = True
                raise ValueError("the server answers 500")
            return True

    monkeypatch.setattr(sender, "_connect", lambda port, env: Client())
    sent: list[str] = []
    background = sender.Sender(1, "main")
    background.put(("main", "Loss"), lambda client: sent.append("Loss") or "Loss")
    wait_for(lambda: sent == ["Loss", "Loss"])
    background.close(5)
    assert len(said()) == 1 and "500" in said()[0]


def test_server_that_takes_no_windows_is_reported(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    # One that asks for a login answers every request, with nothing.
    monkeypatch.setattr(sender, "_connect", lambda port, env: object())
    background = sender.Sender(1, "main")
    background.put(("main", "Loss"), lambda client: "")
    wait_for(said)
    background.close(5)
    assert len(said()) == 1 and "login" in said()[0]


def test_visdom_not_installed_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setitem(sys.modules, "visdom", None)
    background = sender.Sender(1, "main")
    background.put(("main", "Loss"), lambda client: "Loss")
    background.close(5)
    assert len(said()) == 1
    assert "pip install --no-build-isolation -r requirements-visdom.txt" in said()[0]
