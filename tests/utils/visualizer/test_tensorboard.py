"""--tensorboard: the events, read back by TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import main
from tests.helpers import NAME, Args
from tests.utils.visualizer.samples.test_samples import PALETTE, sample
from utils.visualizer import SCORE
from utils.visualizer.tensorboard import TensorBoard

reader = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="TensorBoard is not installed, so --tensorboard is NOT tested",
)


def events(folder: Path) -> reader.EventAccumulator:
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(tag)]


def test_what_is_told_is_in_the_events(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path, resume_step=None)
    tracker.text("options", {"lr": 0.5, "model": "m", "ema": True, "run": {"host": "h"}, "n": None})
    tracker.scalars(1, {"loss": 2.0, "lr": 0.5, "lr backbone": 0.25, "epoch": 0.5})
    tracker.scalars(1, {SCORE: 0.25, "Overall Acc": 0.5, "validation loss": 3.0})
    rows = [{"class": "traffic light", "IoU": 0.75}, {"class": "sky", "IoU": float("nan")}]
    tracker.table("classes", 1, rows)
    tracker.confusion(1, np.eye(2, dtype=np.int64), ["a", "b"])
    tracker.samples(1, [sample("a", 0.5), sample("b", 0.6)], ["a", "b", "c"], PALETTE)
    tracker.close()
    assert curve(tmp_path, "train/loss") == [(1, 2.0)]
    assert curve(tmp_path, "train/lr_backbone") == [(1, 0.25)]
    assert curve(tmp_path, "val/loss") == [(1, 3.0)]
    assert curve(tmp_path, "val/Overall_Acc") == [(1, 0.5)]
    assert curve(tmp_path, "val_iou/traffic_light") == [(1, 0.75)]
    assert curve(tmp_path, "hparam/best_mean_iou") == [(0, 0.25)]
    tags = events(tmp_path).Tags()
    assert "val_iou/sky" not in tags["scalars"] and "val/epoch" not in tags["scalars"]
    assert tags["images"] == ["samples/0", "samples/1"]


def test_a_resumed_run_goes_on_and_a_new_one_begins_anew(tmp_path: Path) -> None:
    for resume_step, steps in ((None, (1, 2, 3)), (2, (3, 4))):
        tracker = TensorBoard(tmp_path, resume_step=resume_step)
        for step in steps:
            tracker.scalars(step, {"loss": float(10 * step + len(steps))})
        tracker.close()
    assert curve(tmp_path, "train/loss") == [(1, 13.0), (2, 23.0), (3, 32.0), (4, 42.0)]
    TensorBoard(tmp_path, resume_step=None).close()
    assert events(tmp_path).Tags()["scalars"] == []


def test_a_run_writes_events(voc_args: Args, no_figures: None, tmp_path: Path) -> None:
    assert main.main(voc_args("--tensorboard")) == 0
    folder = tmp_path / "out" / NAME
    assert [step for step, _ in curve(folder, "train/loss")] == [1, 2, 3, 4]
    assert [step for step, _ in curve(folder, "val/Mean_IoU")] == [2, 4]


def test_without_the_package_one_line_says_so(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    assert main.main(voc_args("--tensorboard")) == 2
    error = capsys.readouterr().err
    assert "pip install tensorboard" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
