from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.runtime.files import write_bytes
from utils.visualizer.history import SCORE, History, read, series


def reject(name: str) -> None:
    raise AssertionError(f"{name} is not strict JSON")


def lines(path: Path) -> list[dict]:
    """The file as a strict reader sees it, without the time."""
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    entries = [json.loads(line, parse_constant=reject) for line in text.splitlines()]
    for entry in entries:
        if "table" not in entry:
            assert entry.pop("wall time", 0) >= 0
    return entries


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
    assert [line["step"] for line in read(path)] == [10, 10]


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
    old.samples(1, [], ["a"], np.zeros((256, 3), np.uint8))
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


def test_a_validation_that_comes_again_is_cut(path: Path) -> None:
    history = History(path, resume_step=None)
    for step in (10, 20):
        history.scalars(step, {"loss": 1.0})
        history.scalars(step, {"Mean IoU": 0.5, "validation loss": 2.0})
        history.table("classes", step, [])
    history.close()
    expected = lines(path)[:4]
    History(path, resume_step=20, validation_due=True).close()
    assert lines(path) == expected


def test_what_is_deleted_in_the_middle_is_written_anew(path: Path, capsys) -> None:
    history = History(path, resume_step=None)
    history.text("options", {"lr": 0.1})
    history.scalars(1, {"loss": 1.0})
    for step in (2, 3):  # the folder; a file that an editor has put into its place
        shutil.rmtree(path.parent) if step == 2 else write_bytes(path, b"mine")
        history.scalars(step, {"loss": 1.0})
        history.scalars(step, {"Mean IoU": 0.5})
        (said,) = capsys.readouterr().err.splitlines()
        assert said == f"{path} was deleted during the run; it was written anew"
        assert json.loads((path.parent / "options.json").read_text()) == {"lr": 0.1}
    assert [line["step"] for line in lines(path)] == [1, 2, 2, 3, 3]
    history.close()


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


def test_text_is_a_file_beside_the_history(path: Path) -> None:
    history = History(path, resume_step=None)
    history.text("options", {"lr": 0.01, "rates": (6, 12), "data_root": Path("x/y"), "ckpt": None})
    stored = json.loads((path.parent / "options.json").read_text())
    assert stored == {"lr": 0.01, "rates": [6, 12], "data_root": "x/y", "ckpt": None}
    history.close()


def test_series() -> None:
    history = [
        {"step": 1, "loss": 2.0, "lr": 0.1, "images/s": 3.0, "data wait": 0.0},
        {"step": 2, "loss": None},
        {"step": 2, "Mean IoU": 0.5, "Overall Acc": 0.75},
        {"step": 2, "table": "loss", "rows": []},
    ]
    steps, values = series(history, "loss")
    assert steps == [1, 2] and values[0] == 2.0 and math.isnan(values[1])
    assert series(history, "absent") == ([], [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"step": 10, "loss": "low"}', "'loss', which is not a number"),
        ('{"step": 10, "loss": [1]}', "'loss', which is not a number"),
        ('{"step": 10, "loss": {"a": 1}}', "'loss', which is not a number"),
        ('{"step": 10, "loss": true}', "'loss', which is not a number"),
        ('{"step": 10, "loss": 1' + "0" * 400 + "}", "'loss', which is not a number"),
        ('{"step": -1}', '"step"'),
        ('{"step": true}', '"step"'),
        ('{"step": 1e3}', '"step"'),
        ("[1]", '"step"'),
        ("[" * 100_000, '"step"'),
        ('{"step": 1, "loss": ' + '{"a":' * 100_000, '"step"'),
        ('{"step": 1, "table": "classes"}', "no table of numbers by class"),
        ('{"step": 1, "table": "classes", "rows": [1]}', "no table of numbers by class"),
        ('{"step": 1, "table": "classes", "rows": [{"IoU": [1]}]}', "no table of numbers by"),
        ('{"step": 1, "table": 5, "rows": []}', "no table of numbers by class"),
        ('{"step": 1, "table": "confusion", "rows": [[1]]}', "no square table of counts"),
        ('{"step": 1, "table": "confusion", "class_names": ["a"], "rows": [[1, 2]]}', "square"),
        ('{"step": 1, "table": "confusion", "class_names": ["a"], "rows": [["x"]]}', "square"),
        ('{"step": 1, "table": "confusion", "class_names": ["a"], "rows": [[-1]]}', "square"),
        ('{"step": 1, "table": "confusion", "class_names": [1], "rows": [[1]]}', "square"),
        (
            '{"step": 1, "table": "confusion", "class_names": ["a", "b"], "rows": [[1, 2], [3]]}',
            "square",
        ),
    ],
)
def test_a_line_that_no_run_writes_is_named(path: Path, line: str, problem: str) -> None:
    path.parent.mkdir()
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 20}}\n')
    with pytest.raises(ValueError, match="line 2 .*--overwrite") as found:
        read(path)
    assert problem in str(found.value) and "\n" not in str(found.value)


def test_the_wall_time_counts_on_after_a_resume(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"step": 10, "wall time": 1000.0}\n{"step": 20, "wall time": 2000.0}\n')
    history = History(path, resume_step=10)
    history.scalars(11, {"loss": 1.0})
    history.close()
    assert 1000 <= read(path)[-1]["wall time"] < 1100


def test_samples_of_the_first_best_and_last_validation_stay(path: Path) -> None:
    def steps() -> set[str]:
        return {file.name for file in (path.parent / "samples").iterdir() if file.is_dir()}

    history = History(path, resume_step=None)
    for step, score in ((10, 0.2), (20, 0.6), (30, math.nan), (40, 0.6), (50, 0.4)):
        history.scalars(step, {SCORE: score})
        history.samples(step, [], ["a"], np.zeros((256, 3), np.uint8))
    assert steps() == {"000010", "000020", "000050"}
    history.close()
    History(path, resume_step=40).close()
    assert steps() == {"000010", "000020"}


def test_pictures_stand_beside_the_history(path: Path) -> None:
    history = History(path, resume_step=None)
    history.image("train_batch", 1, np.full((8, 9, 3), 50, np.uint8))
    history.close()
    with Image.open(path.parent / "train_batch.jpg") as picture:
        assert picture.size == (9, 8)
