"""What a run prints at its end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from utils.runtime.checkpoint import RunFiles
from utils.training import report
from utils.visualizer import SCORE

LINES = """\
{"step": 10, "wall time": 60.0, "loss": 1.0}
{"step": 10, "wall time": 65.0, "%s": 0.75}
{"step": 20, "wall time": 3725.4, "loss": 0.5}
{"step": 20, "wall time": 3725.9, "%s": 0.5}
"""


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    made = RunFiles(tmp_path, "net_data_os16")
    made.folder.mkdir()
    made.history.write_text(LINES % (SCORE, SCORE))
    for path in (made.latest, made.best, made.folder / "report.html"):
        path.touch()
    return made


def end_of(files: RunFiles, capsys: pytest.CaptureFixture[str]) -> list[str]:
    run: Any = SimpleNamespace(world=SimpleNamespace(is_main=True), files=files)
    report.say_end(run)
    return capsys.readouterr().out.splitlines()


def test_the_end_says_how_good_the_run_is_and_where_everything_is(
    files: RunFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(files, capsys) == [
        "trained 20 steps in 1:02:06: best mIoU 0.750 at step 10, last 0.500",
        f"checkpoints: {files.latest}, {files.best}",
        f"report: {files.folder / 'report.html'}",
        f"predict: python predict.py --ckpt {files.best} --input IMAGES",
    ]


def test_the_end_of_a_run_that_was_stopped_before_its_first_validation(
    files: RunFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    files.history.write_text(LINES.splitlines(keepends=True)[0])
    for path in (files.best, files.folder / "report.html"):
        path.unlink()
    assert end_of(files, capsys) == [
        "trained 10 steps in 0:01:00",
        f"checkpoints: {files.latest}",
        f"report: {files.folder / 'report.html'}",  # written for the steps since the last one
        f"predict: python predict.py --ckpt {files.latest} --input IMAGES",
    ]
