"""A run's folder, read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.utils.visualizer.samples.test_samples import PALETTE, sample
from tests.utils.visualizer.test_trackers import CALLS
from utils.visualizer import SCORE, History, Record
from utils.visualizer.trackers import Trackers

NAMES = ["road", "sky", "car"]


def record_run(folder: Path, scores: dict[int, float]) -> None:
    """A run with a validation at each of the steps `scores`."""
    tracker = Trackers(History(folder / "history.jsonl", resume_step=None))
    facts = {"class_names": NAMES, "colors": ["#102030", "#405060", "#708090"]}
    tracker.text("options", {"lr": 0.1, "run": facts})
    for step, score in scores.items():
        tracker.scalars(step, {"loss": 1.0 / step, "lr": 0.1})
        tracker.scalars(step, {SCORE: score, "validation loss": 0.5})
        tracker.table("classes", step, [{"class": name, "IoU": score} for name in NAMES])
        tracker.confusion(step, np.diag([step, 0, 5]), NAMES)
        tracker.samples(step, [sample("a", score)], NAMES, PALETTE)
    tracker.close()


class Witness:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def __getattr__(self, name: str):
        return lambda *values: self.told.append((name, *values))


def test_a_record_tells_what_the_run_told(tmp_path: Path) -> None:
    record_run(tmp_path, {10: 0.25, 20: 0.75, 30: 0.5, 40: 0.625})
    record = Record.read(tmp_path)
    assert record.class_names == NAMES
    assert record.palette[:3].tolist() == [[16, 32, 48], [64, 80, 96], [112, 128, 144]]
    witness = Witness()
    record.replay(witness)
    names = [what for what, *_ in witness.told]
    assert names == ["text"] + 4 * ["scalars", "scalars", "table", "confusion"] + 3 * ["samples"]
    assert set(names) <= set(CALLS)
    _, step, counts, class_names = witness.told[4]
    assert (step, class_names) == (10, NAMES) and counts.dtype == np.int64
    assert np.array_equal(counts, np.diag([10, 0, 5]))
    kept = [told for told in witness.told if told[0] == "samples"]
    assert [step for _, step, *_ in kept] == [10, 20, 40]  # the first, the best, the last
    assert kept[1][2][0].miou == 0.75


def test_an_older_run_is_read_too(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 2.0, "lr": 0.1, "images/s": 3.0, "data wait": 0.0},
        {"step": 2, "Mean IoU": 0.5, "Overall Acc": 0.75},
        {"step": 2, "table": "classes", "rows": [{"class": "a", "IoU": None}, {"class": "b"}]},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "history.jsonl").write_text(text)
    (tmp_path / "options.json").write_text('{"command": "python main.py", "lr": 0.1}')
    record = Record.read(tmp_path)
    assert record.class_names == ["a", "b"] and record.facts == {}
    record.replay(Witness())


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "[" * 100_000, '{"run": {"colors": "red"}}', '{"run": {"class_names": [1]}}'],
)
def test_damaged_options_are_one_line(text: str, tmp_path: Path) -> None:
    record_run(tmp_path, {10: 0.25})
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(ValueError, match="options.json is damaged"):
        Record.read(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run in .*--output_dir"):
        Record.read(tmp_path)
