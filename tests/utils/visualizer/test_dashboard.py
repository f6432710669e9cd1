"""The dashboard, against a real Visdom server on a loopback port."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.visualizer import Visualizer, sender

pytest.importorskip(
    "visdom",
    reason="Visdom is not installed, so the dashboard is NOT tested; see requirements-visdom.txt",
)

# Visdom's own, at each new client.
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")

# The plain `visdom` command would first fetch the page's scripts from the internet.
SERVER = "from visdom.server.run_server import main; main()"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder, self.port = folder, port or free_port()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        home = {**os.environ, "HOME": str(self.folder)}
        options = ["-port", str(self.port), "-bind_local", "-logging_level", "ERROR"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *options, "-env_path", str(self.folder)],
            cwd=self.folder,
            env=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: self.windows("main") is not None, seconds=30)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def windows(self, env: str) -> dict | None:
        """All windows of an environment by name; None while the server does not answer."""
        try:
            return self.post("win_data", win=None, eid=env) or {}
        except OSError:
            return None

    def post(self, endpoint: str, **message: object) -> object:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = json.dumps(message).encode()
        with opener.open(f"http://127.0.0.1:{self.port}/{endpoint}", data, timeout=5) as answer:
            text = answer.read()
            return json.loads(text) if text[:1] in (b"{", b"[") else text


def wait_for(condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may stop."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def curve(window: dict, line: int = 0) -> tuple[list, list]:
    trace = window["content"]["data"][line]
    return trace["x"], trace["y"]


def decode(window: dict) -> np.ndarray:
    data = window["content"]["src"].split(",", 1)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_everything_a_training_shows_is_in_the_server(server: Server, tmp_path: Path) -> None:
    tracker = Visualizer(server.port, env="run/1")
    for step in (10, 20, 30):
        tracker.scalars(step, {"loss": 3.0 / step, "lr": 0.01 * step, "images/s": 40.0})
    tracker.scalars(20, {"Mean IoU": 0.25, "Overall Acc": 0.75})
    tracker.scalars(30, {"Mean IoU": 0.5, "Overall Acc": 0.875})
    rows = [{"class": "<b>road</b>", "IoU": 0.98765, "pixels": 1234567}, {"class": "sky"}]
    tracker.table("classes", 30, rows)
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, 45:] = (250, 120, 10)
    tracker.image("sample 1", 30, image)
    Image.fromarray(image).save(tmp_path / "confusion.png")
    tracker.figure("confusion", 30, tmp_path / "confusion.png")
    tracker.text("options", {"lr": 0.01, "data_root": "<script>"})
    tracker.close(10)

    assert "run/1" not in server.post("env_state")
    windows = server.windows("run_1")
    assert curve(windows["Loss"]) == ([10, 20, 30], [0.3, 0.15, 0.1])
    assert curve(windows["Learning rate"])[1] == pytest.approx([0.1, 0.2, 0.3])
    assert curve(windows["Training speed"])[1] == [40, 40, 40]
    scores = windows["Validation"]
    assert [trace["name"] for trace in scores["content"]["data"]] == ["Mean IoU", "Overall Acc"]
    assert curve(scores, 0) == ([20, 30], [0.25, 0.5])
    assert curve(scores, 1) == ([20, 30], [0.75, 0.875])
    assert scores["content"]["layout"]["xaxis"]["title"] == "step"

    table = windows["classes"]
    assert "&lt;b&gt;road&lt;/b&gt;" in table["content"] and "<b>" not in table["content"]
    assert "0.9877" in table["content"] and "1,234,567" in table["content"]
    assert table["title"] == "classes (step 30)"
    assert "&lt;script&gt;" in windows["options"]["content"]

    shown = decode(windows["sample 1"])
    assert shown.shape == image.shape
    assert np.abs(shown[30, 80].astype(int) - (250, 120, 10)).max() <= 6  # JPEG
    assert np.array_equal(decode(windows["confusion"]), image)  # PNG


def test_predecessors_methods(server: Server) -> None:
    vis = Visualizer(port=str(server.port), env="methods", id="a")
    vis.vis_scalar("Loss", 1, 0.5)
    vis.vis_scalar("Loss", [2, 3], [0.25, 0.125], opts={"ylabel": "cross entropy"})
    vis.vis_image("picture", np.full((3, 8, 9), 0.5, np.float32))
    vis.vis_table("[Val] Class IoU", {"road": 0.5, 7: "x & y"})
    vis.close(10)
    windows = server.windows("methods")
    assert curve(windows["[a]Loss"]) == ([1, 2, 3], [0.5, 0.25, 0.125])
    assert decode(windows["[a]picture"]).shape == (8, 9, 3)
    assert "x &amp; y" in windows["[a][Val] Class IoU"]["content"]


def test_values_that_are_not_finite_are_gaps(server: Server) -> None:
    tracker = Visualizer(server.port, env="gaps")
    for step, loss in enumerate((1.0, float("nan"), float("inf"), 0.5)):
        tracker.scalars(step, {"loss": loss})
    tracker.scalars(0, {"Mean IoU": 0.5, "Overall Acc": 0.5})
    tracker.scalars(3, {"Mean IoU": None, "Overall Acc": 0.75})
    tracker.table("classes", 3, [{"class": "road", "IoU": float("nan")}])
    tracker.close(10)
    windows = server.windows("gaps")
    assert curve(windows["Loss"])[1] == [1.0, None, None, 0.5]
    assert curve(windows["Validation"], 0)[1] == [0.5, None]
    assert "nan" not in windows["classes"]["content"]


def test_long_curves_are_thinned(server: Server) -> None:
    history = [{"step": step, "loss": step / 2} for step in range(1, 9001)]
    tracker = Visualizer(server.port, env="long", history=history)
    tracker.close(10)
    x, y = curve(server.windows("long")["Loss"])
    assert 1000 <= len(x) <= 2000
    assert (x[0], x[-1]) == (1, 9000)
    assert y == [step / 2 for step in x]


def test_wide_images_are_shown_smaller(server: Server) -> None:
    tracker = Visualizer(server.port, env="wide")
    tracker.image("sample", 1, np.zeros((100, 2400, 3), np.uint8))
    tracker.close(10)
    assert decode(server.windows("wide")["sample"]).shape == (50, 1200, 3)


def test_resumed_run_continues_its_curves(server: Server) -> None:
    history = [
        {"step": 1, "loss": 4.0},
        {"step": 2, "loss": None},
        {"step": 2, "Mean IoU": 0.5},
        {"step": 2, "table": "classes", "rows": [{"class": "road", "IoU": None}]},
    ]
    tracker = Visualizer(server.port, env="resumed", history=history)
    tracker.scalars(3, {"loss": 1.0})
    tracker.close(10)
    windows = server.windows("resumed")
    assert curve(windows["Loss"]) == ([1, 2, 3], [4.0, None, 1.0])
    assert curve(windows["Validation"]) == ([2], [0.5])
    assert "road" in windows["classes"]["content"]


def test_no_server_is_one_warning_and_no_wait(capfd: pytest.CaptureFixture[str]) -> None:
    tracker = Visualizer(free_port(), env="none")
    begin = time.perf_counter()
    for step in range(100):
        tracker.scalars(step, {"loss": 1.0})
        tracker.image("sample", step, np.zeros((32, 32, 3), np.uint8))
    assert time.perf_counter() - begin < 1
    time.sleep(0.5)  # several tries
    begin = time.perf_counter()
    tracker.close()
    assert time.perf_counter() - begin < 4
    output = capfd.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "no Visdom server" in output.err and "-bind_local" in output.err


def test_server_that_comes_later_gets_everything(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    server = Server(tmp_path)
    tracker = Visualizer(server.port, env="late")
    tracker.scalars(1, {"loss": 1.0})
    wait_for(said)
    server.start()
    try:
        wait_for(lambda: "Loss" in (server.windows("late") or {}))
        tracker.close()
    finally:
        server.stop()
    assert len(said()) == 1


def test_restarted_server_gets_everything_again(own_server: Server) -> None:
    tracker = Visualizer(own_server.port, env="again")
    tracker.text("options", {"lr": 0.01})
    for step in range(5):
        tracker.scalars(step, {"loss": float(step)})
    wait_for(lambda: {"Loss", "options"} <= (own_server.windows("again") or {}).keys())
    own_server.stop()
    tracker.scalars(5, {"loss": 5.0})
    own_server.start()
    tracker.scalars(6, {"loss": 6.0})
    wait_for(lambda: {"Loss", "options"} <= (own_server.windows("again") or {}).keys())
    tracker.close(10)
    assert curve(own_server.windows("again")["Loss"])[0] == [0, 1, 2, 3, 4, 5, 6]


def test_restart_between_two_requests_is_noticed(server: Server) -> None:
    tracker = Visualizer(server.port, env="idle")
    tracker.text("options", {"lr": 0.01})
    tracker.scalars(1, {"loss": 1.0})
    wait_for(lambda: {"Loss", "options"} <= (server.windows("idle") or {}).keys())
    server.post("close", win=None, eid="idle")  # an empty environment is all one sees of a restart
    wait_for(lambda: {"Loss", "options"} <= (server.windows("idle") or {}).keys())
    tracker.close(10)
    assert curve(server.windows("idle")["Loss"])[0] == [1]


def test_frozen_server_holds_nobody_up(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(sender, "REQUEST_SECONDS", 0.5)
    tracker = Visualizer(own_server.port, env="frozen")
    tracker.scalars(1, {"loss": 1.0})
    wait_for(lambda: "Loss" in (own_server.windows("frozen") or {}))
    os.kill(own_server.process.pid, signal.SIGSTOP)
    try:
        slowest = 0.0
        for step in range(2, 50):
            begin = time.perf_counter()
            tracker.scalars(step, {"loss": 1.0})
            slowest = max(slowest, time.perf_counter() - begin)
        assert slowest < 0.5
        wait_for(said, seconds=5)
        monkeypatch.setattr(sender, "REQUEST_SECONDS", 30.0)
        tracker.scalars(50, {"loss": 1.0})
        time.sleep(1)
        begin = time.perf_counter()
        tracker.close(limit=1.0)
        assert time.perf_counter() - begin < 1.5
        assert len(said()) == 1
    finally:
        os.kill(own_server.process.pid, signal.SIGCONT)


def test_window_that_cannot_be_shown_is_said_once(
    server: Server, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    tracker = Visualizer(server.port, env="broken")
    for step in range(3):
        tracker.figure("curves", step, tmp_path / "absent.png")
        time.sleep(0.1)
    tracker.scalars(1, {"loss": 1.0})
    tracker.close(10)
    assert len(said()) == 1 and "'curves'" in said()[0]
    assert "Loss" in server.windows("broken")
