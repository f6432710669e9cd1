from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.visualizer.history import History, read, series, validation_keys


def reject(name: str) -> None:
    raise AssertionError(f"{name} is not strict JSON")


def lines(path: Path) -> list[dict]:
    """The file as a strict reader sees it."""
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=reject) for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "history.jsonl"


def test_one_line_a_call_visible_at_once(path: Path) -> None:
    history = History(path, resume_step=None)
    history.scalars(10, {"loss": 0.5, "lr": 0.01})
    assert lines(path) == [{"step": 10, "loss": 0.5, "lr": 0.01}]
    history.table("classes", 10, [{"class": "Straße", "IoU": 0.25}])
    expected = {"step": 10, "table": "classes", "rows": [{"class": "Straße", "IoU": 0.25}]}
    assert lines(path)[1] == expected
    history.close()
    assert read(path) == lines(path)


def test_values_that_are_not_finite_and_scalars_of_libraries(path: Path) -> None:
    torch = pytest.importorskip("torch")
    history = History(path, resume_step=None)
    values = {"a": math.nan, "b": math.inf, "c": np.float32(0.5), "d": torch.tensor(-math.inf)}
    history.scalars(np.int64(3), values)
    history.table("t", 3, [{"IoU": np.float64("nan"), "pixels": np.int64(2**40)}])
    first, second = lines(path)
    assert first == {"step": 3, "a": None, "b": None, "c": 0.5, "d": None}
    assert second["rows"] == [{"IoU": None, "pixels": 2**40}]
    history.close()


def test_fresh_run_starts_empty(path: Path) -> None:
    old = History(path, resume_step=None)
    old.scalars(1, {"loss": 1.0})
    old.image("a", 1, np.zeros((2, 2, 3), np.uint8))
    old.close()
    other = path.parent / "samples" / "mine.png"
    other.write_bytes(b"kept")
    History(path, resume_step=None).close()
    assert lines(path) == []
    assert [file.name for file in other.parent.iterdir()] == ["mine.png"]


def test_resume_cuts_what_is_past_the_checkpoint(path: Path) -> None:
    history = History(path, resume_step=None)
    for step in (10, 20, 30):
        history.scalars(step, {"loss": 1.0 / step})
        history.table("t", step, [{"a": step}])
    history.close()
    history = History(path, resume_step=20)
    assert [line["step"] for line in lines(path)] == [10, 10, 20, 20]
    history.scalars(25, {"loss": 7.0})
    history.close()
    assert [line["step"] for line in lines(path)] == [10, 10, 20, 20, 25]
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize("torn", ['{"step": 11, "lo', '{"step": 1', "{", '{"step": 11, "lo\n'])
def test_torn_last_line_is_left_out_and_cut(path: Path, torn: str) -> None:
    path.parent.mkdir()
    path.write_text('{"step": 10, "loss": 0.5}\n' + torn)
    assert read(path) == [{"step": 10, "loss": 0.5}]
    history = History(path, resume_step=100)
    assert path.read_text() == '{"step": 10, "loss": 0.5}\n'
    history.scalars(11, {"loss": 0.25})
    history.close()
    assert [line["step"] for line in lines(path)] == [10, 11]


def test_damaged_line_in_the_middle_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"step": 10}\nnonsense\n{"step": 20}\n')
    with pytest.raises(ValueError, match=r"line 2 .*--overwrite"):
        read(path)


def test_resume_without_a_history_and_read_without_a_file(path: Path) -> None:
    assert read(path) == []
    history = History(path, resume_step=5)
    history.scalars(6, {"loss": 1.0})
    history.close()
    assert lines(path) == [{"step": 6, "loss": 1.0}]


def test_killed_writer_leaves_whole_lines(path: Path) -> None:
    script = (
        "import itertools, sys\n"
        "from utils.visualizer.history import History\n"
        "history = History(sys.argv[1], resume_step=None)\n"
        "for step in itertools.count():\n"
        "    history.scalars(step, {'loss': 1.0, 'pad': 0.1})\n"
        "    if step == 200: print('ready', flush=True)\n"
    )
    root = Path(__file__).parents[3]
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=root, stdout=subprocess.PIPE
    )
    writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    steps = [line["step"] for line in read(path)]
    assert len(steps) > 200 and steps == list(range(len(steps)))


def test_reserved_names(path: Path) -> None:
    history = History(path, resume_step=None)
    with pytest.raises(ValueError, match="step"):
        history.scalars(1, {"step": 2.0})
    history.close()
    assert lines(path) == []


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def test_newest_picture_of_each_name_is_kept(path: Path) -> None:
    history = History(path, resume_step=None)
    for step in (100, 200):
        history.image("aachen/aachen 1", step, picture(step))
        history.image("1", step, picture(step + 1))
        history.image("2_1", step, picture(step + 2))
    samples = {file.name: file for file in (path.parent / "samples").iterdir()}
    assert samples.keys() == {"000200_aachen_aachen_1.png", "000200_1.png", "000200_2_1.png"}
    stored = np.asarray(Image.open(samples["000200_aachen_aachen_1.png"]))
    assert np.array_equal(stored, picture(200))
    history.close()


def test_pictures_with_names_alike_do_not_replace_each_other(path: Path) -> None:
    history = History(path, resume_step=None)
    names = ["a/b", "a_b", "a b", "x" * 300, "x" * 301, "../../escape"]
    for value, name in enumerate(names):
        history.image(name, 1, picture(value))
    stored = {int(np.asarray(Image.open(f)).flat[0]) for f in (path.parent / "samples").iterdir()}
    assert stored == set(range(len(names)))
    history.close()


def test_text_is_a_file_beside_the_history(path: Path) -> None:
    history = History(path, resume_step=None)
    history.text("options", {"lr": 0.01, "rates": (6, 12), "data_root": Path("x/y"), "ckpt": None})
    stored = json.loads((path.parent / "options.json").read_text())
    assert stored == {"lr": 0.01, "rates": [6, 12], "data_root": "x/y", "ckpt": None}
    history.figure("curves", 1, path.parent / "curves.png")
    history.close()


def test_series_and_validation_keys() -> None:
    history = [
        {"step": 1, "loss": 2.0, "lr": 0.1, "images/s": 3.0, "data wait": 0.0},
        {"step": 2, "loss": None},
        {"step": 2, "Mean IoU": 0.5, "Overall Acc": 0.75},
        {"step": 2, "table": "loss", "rows": []},
    ]
    steps, values = series(history, "loss")
    assert steps == [1, 2] and values[0] == 2.0 and math.isnan(values[1])
    assert series(history, "absent") == ([], [])
    assert validation_keys(history) == ["Mean IoU", "Overall Acc"]


def test_the_validation_loss_is_no_score_beside_the_others() -> None:
    entries = [{"step": 1, "loss": 3.0}, {"step": 2, "Mean IoU": 0.5, "validation loss": 2.5}]
    assert validation_keys(entries) == ["Mean IoU"]
