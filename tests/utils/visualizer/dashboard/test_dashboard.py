"""The dashboard, against a real Visdom server on a loopback port."""

from __future__ import annotations

import base64
import io
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.utils.visualizer.dashboard.visdom_server import Server, free_port, wait_for
from utils.visualizer import (
    SCORE,
    Dashboard,
    History,
    ValidatedSample,
    Visualizer,
    env_of_run,
)
from utils.visualizer.__main__ import main
from utils.visualizer.dashboard import sender

ALL = [
    "Status",
    "Loss",
    "Validation",
    "Class IoU",
    "Samples",
    "Confusion",
    "Learning rate",
    "Speed",
    "Options",
]
NASTY = "<img src=x onerror=alert(1)>"
NAMES = ["road", NASTY, "never seen"]
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[:2] = (200, 30, 60), (20, 120, 220)


def tell(tracker: Any, step: int = 20, *, score: float = 0.5) -> None:
    """What a run tells after a training step and a validation."""
    tracker.scalars(step - 10, {"loss": 2.0, "lr": 0.1, "lr backbone": 0.01, "images/s": 40.0})
    tracker.scalars(step, {"loss": 1.0, "lr": 0.05, "lr backbone": 0.005, "images/s": 44.0})
    tracker.scalars(step, {SCORE: score, "Overall Acc": 0.75, "validation loss": 1.5})
    rows = [
        {"class": "road", "IoU": score, "pixels": 7},
        {"class": NASTY, "IoU": 0.25, "pixels": 0},  # it is predicted, so it is not absent
        {"class": "never seen", "IoU": float("nan"), "pixels": 0},
    ]
    tracker.table("classes", step, rows)
    tracker.confusion(step, np.array([[6, 1, 0], [2, 3, 0], [0, 0, 0]]), NAMES)
    target = np.zeros((30, 40), np.uint8)
    target[:, 20:], target[:3] = 1, 255
    sample = ValidatedSample(
        f"a/{NASTY}", np.zeros((30, 40, 3), np.uint8), target, target, 0.5, 0.1
    )
    tracker.samples(step, [sample], NAMES, PALETTE)


def dashboard(server: Server, env: str, folder: Path, **more: Any) -> Dashboard:
    return Dashboard(env, folder=folder, port=server.port, **more)


def curve(window: dict, name: str) -> tuple[list, list]:
    trace = next(trace for trace in window["content"]["data"] if trace["name"] == name)
    return trace["x"], trace["y"]


def has_all(server: Server, env: str) -> bool:
    windows = server.windows(env) or {}
    return ALL == list(windows) and curve(windows["Validation"], "best")[0] != []


def test_everything_a_training_shows_is_in_the_server(server: Server, tmp_path: Path) -> None:
    tracker = dashboard(server, "run/1", tmp_path)
    facts: dict[str, Any] = {"changed_options": ["lr"], "class_names": NAMES}
    facts["colors"] = ["#c81e3c", "#1478dc"]
    facts["resume_command"] = "python main.py --continue_training"
    options = {"lr": 0.1, "total_itrs": 30, "data_root": "<script>", "run": facts}
    tracker.text("options", {"command": "python main.py", **options})
    tell(tracker)
    tracker.scalars(30, {"loss": float("inf")})
    tracker.scalars(30, {SCORE: 0.25, "Overall Acc": 0.875})
    tracker.close()

    assert "run/1" not in server.post("env_state")
    windows = server.windows("run_1")
    assert list(windows) == ALL  # made in reading order
    assert curve(windows["Loss"], "train") == ([10, 20, 30], [2.0, 1.0, None])
    assert curve(windows["Loss"], "validation") == ([20], [1.5])
    assert len(curve(windows["Loss"], "train, smoothed")[0]) == 3
    assert curve(windows["Learning rate"], "backbone") == ([10, 20], [0.01, 0.005])
    assert curve(windows["Speed"], "images/s") == ([10, 20], [40, 44])
    assert curve(windows["Validation"], "mIoU") == ([20, 30], [0.5, 0.25])
    assert curve(windows["Validation"], "best") == ([20], [0.5])
    (bars,) = windows["Class IoU"]["content"]["data"]
    assert bars["y"] == ["&lt;img src=x ..r=alert(1)&gt;", "road"]  # from below
    assert bars["x"] == [0.25, 0.5] and bars["marker"]["color"] == ["#1478dc", "#c81e3c"]
    assert "1 absent" in windows["Class IoU"]["content"]["layout"]["title"]["text"]
    (heat,) = windows["Confusion"]["content"]["data"]
    assert heat["z"] == [[85.71, 14.29], [40, 60]]
    assert windows["Confusion"]["content"]["layout"]["yaxis"]["autorange"] == "reversed"
    for name in ("Status", "Samples", "Options"):
        assert "<img src=x" not in windows[name]["content"]
    assert (
        ">finished<" in windows["Status"]["content"] and "30 / 30" in windows["Status"]["content"]
    )
    options_page = windows["Options"]["content"]
    assert "&lt;script&gt;" in options_page
    assert options_page.index("--continue_training") < options_page.index("Options that differ")
    samples = windows["Samples"]["content"]
    assert "&lt;img src=x" in samples and "mIoU 0.500, 10.0 % wrong" in samples
    source = samples.split("data:image/jpeg;base64,")[3].split('"')[0]  # the prediction
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB"))
    # The image is black, so 60 % of the class's color.
    assert np.abs(picture[20, 5].astype(int) - (120, 18, 36)).max() <= 8


def test_every_trace_has_a_name_and_no_line_more_than_2000_points(
    server: Server, tmp_path: Path
) -> None:
    def past(tracker: Any) -> None:
        for step in range(1, 9001):
            tracker.scalars(step, {"loss": step / 2, "lr": 0.1, "images/s": 4.0})

    dashboard(server, "long", tmp_path, tell_past=past).close()
    windows = server.windows("long")
    traces = [t for w in windows.values() if w["type"] == "plot" for t in w["content"]["data"]]
    assert all(trace["name"] for trace in traces)
    assert max(len(trace["x"]) for trace in traces) <= 2000
    x, y = curve(windows["Loss"], "train")
    assert len(x) >= 1000 and (x[0], x[-1]) == (1, 9000)
    assert y == [step / 2 for step in x]
    assert len(set(np.diff(x[:-1]))) == 1


def test_predecessors_methods(server: Server) -> None:
    vis = Visualizer(port=str(server.port), env="methods", id="a")
    vis.vis_scalar("Loss", 1, 0.5)
    vis.vis_scalar("Loss", [2, 3], [0.25, float("nan")], opts={"ylabel": "cross entropy"})
    vis.vis_image("picture", np.full((3, 8, 9), 0.5, np.float32))
    vis.vis_table("[Val] Class IoU", {"road": 0.5, 7: "x & y"})
    vis.close(15)
    windows = server.windows("methods")
    loss = windows["[a]Loss"]["content"]
    assert (loss["data"][0]["x"], loss["data"][0]["y"]) == ([1, 2, 3], [0.5, 0.25, None])
    assert loss["layout"]["yaxis"]["title"] == "cross entropy"
    assert windows["[a]picture"]["content"]["src"].startswith("data:image/png")
    assert "x &amp; y" in windows["[a][Val] Class IoU"]["content"]


def test_server_that_comes_later_gets_everything(
    needs_visdom: None, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    server = Server(tmp_path)
    tracker = dashboard(server, "late", tmp_path)
    tell(tracker)
    wait_for(said)
    server.start()
    try:
        wait_for(lambda: has_all(server, "late"))
        tracker.close()
    finally:
        server.stop()
    missing, connected = said()
    assert "utils.visualizer serve" in missing and "connected again" in connected


def test_restarted_server_gets_everything_again(own_server: Server, tmp_path: Path) -> None:
    tracker = dashboard(own_server, "again", tmp_path / "run")
    tell(tracker)
    wait_for(lambda: has_all(own_server, "again"))
    own_server.stop()
    (tmp_path / "again.json").unlink(missing_ok=True)  # what it had saved by then
    tracker.scalars(21, {"loss": 0.5})
    own_server.start()
    wait_for(lambda: has_all(own_server, "again"))
    tracker.close()
    assert curve(own_server.windows("again")["Loss"], "train")[0] == [10, 20, 21]


@pytest.mark.slow
def test_restart_in_which_nothing_was_sent_is_noticed(own_server: Server, tmp_path: Path) -> None:
    tracker = dashboard(own_server, "stale", tmp_path / "run")
    tell(tracker)
    wait_for(lambda: (tmp_path / "stale.json").exists())
    tracker.scalars(21, {"loss": 0.5})  # is not in the file
    wait_for(lambda: curve(own_server.windows("stale")["Loss"], "train")[0] == [10, 20, 21])
    own_server.stop()
    own_server.start()  # with the windows of the file
    wait_for(lambda: curve(own_server.windows("stale")["Loss"], "train")[0] == [10, 20, 21])
    tracker.close()


def test_environment_that_was_cleared_is_filled_again(server: Server, tmp_path: Path) -> None:
    tracker = dashboard(server, "cleared", tmp_path)
    tell(tracker)
    wait_for(lambda: has_all(server, "cleared"))
    server.post("close", win=None, eid="cleared")
    wait_for(lambda: has_all(server, "cleared"))
    tracker.close()


@pytest.mark.slow
def test_run_that_is_over_survives_a_restart_of_the_server(
    own_server: Server, tmp_path: Path
) -> None:
    tracker = dashboard(own_server, "over", tmp_path / "run")
    tell(tracker)
    wait_for(lambda: (tmp_path / "over.json").exists())  # after the validation
    time.sleep(0.5)  # with all that was told after it
    tracker.close()
    own_server.stop()
    own_server.start()
    assert has_all(own_server, "over")
    assert ">stopped<" in own_server.windows("over")["Status"]["content"]
    assert "null" != (tmp_path / "over.json").read_text()


def test_show_sends_a_run_that_is_over(
    server: Server, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    folder = tmp_path / "model_data_os16"
    record = History(folder / "history.jsonl", resume_step=None)
    facts = {"class_names": NAMES, "colors": ["#c81e3c", "#1478dc", "#000000"]}
    record.text("options", {"total_itrs": 20, "run": facts})
    tell(record)
    record.close()
    assert main(["show", str(folder), "--port", str(server.port)]) == 0
    env = env_of_run(folder)
    assert env.startswith("model_data_os16_")
    assert has_all(server, env)
    assert ">finished<" in server.windows(env)["Status"]["content"]
    assert "mIoU 0.500" in server.windows(env)["Samples"]["content"]
    assert main(["show", str(folder), str(tmp_path), "--port", str(server.port)]) == 2
    assert "no run in" in said()[-1]
    port, before = free_port(), len(said())
    assert main(["show", str(folder), "--port", str(port)]) == 2
    (line,) = said()[before:]
    assert line.endswith(f"start one with: python -m utils.visualizer serve --port {port}")


def test_environment_of_a_run_is_its_own_and_stays(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    env = env_of_run(one, start="2026-11-24_150907")
    assert env == "one_2026-11-24_150907"
    assert env_of_run(one) == env  # a resumed run
    assert env_of_run(two) != env and env_of_run(two).startswith("two_2")
    assert env_of_run(one, given="mine") == "mine" == env_of_run(one)
    assert env_of_run(one, given="a/b#c") == "a_b_c"


@pytest.mark.slow
def test_frozen_server_holds_nobody_up(
    own_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr(sender, "REQUEST_SECONDS", 0.5)
    tracker = dashboard(own_server, "frozen", tmp_path / "run")
    wait_for(lambda: "Options" in (own_server.windows("frozen") or {}))
    own_server.signal(signal.SIGSTOP)
    try:
        slowest = 0.0
        for step in range(2, 50):
            begin = time.perf_counter()
            tracker.scalars(step, {"loss": 1.0})
            slowest = max(slowest, time.perf_counter() - begin)
        assert slowest < 0.5
        wait_for(lambda: len(said()) == 2)
        begin = time.perf_counter()
        assert not tracker.finish(limit=1.0)
        assert time.perf_counter() - begin < 2
    finally:
        own_server.signal(signal.SIGCONT)
    _, silent, end = said()
    assert "did not answer within 0.5 s; trying on" in silent
    assert f"visualizer show {tmp_path / 'run'} --port {own_server.port}" in end
