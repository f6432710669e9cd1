"""A real Visdom server on a loopback port, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

# Visdom's API without the files of its page, which need npm once.
API_ONLY = "from visdom.server.run_server import main; main()"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


class Server:
    def __init__(self, folder: Path, *, with_page: bool = False) -> None:
        self.folder, self.port = folder, free_port()
        flags = ["-bind_local", "-logging_level", "ERROR", "-port", str(self.port)]
        command = ["-c", API_ONLY, *flags, "-env_path", str(folder)]
        if with_page:
            command = ["-m", "utils.visualizer", "serve", "--port", str(self.port)]
            command += ["--env_path", str(folder)]
        self.command = [sys.executable, *command]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={**os.environ, "HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: self.windows("main") is not None, seconds=60)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def windows(self, env: str) -> dict[str, Any] | None:
        """All windows of an environment by name; None while the server does not answer."""
        try:
            return self.post("win_data", win=None, eid=env) or {}
        except OSError:
            return None

    def post(self, endpoint: str, **message: object) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = json.dumps(message).encode()
        with opener.open(f"http://127.0.0.1:{self.port}/{endpoint}", data, timeout=5) as answer:
            text = answer.read()
            return json.loads(text) if text[:1] in (b"{", b"[") else text
