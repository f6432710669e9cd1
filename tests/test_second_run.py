"""A second run of the same name at the same time: refused before it touches anything."""

from __future__ import annotations

from pathlib import Path

import pytest

import main
from tests.helpers import NAME, Args, lock_in_another_process
from utils.runtime import lock

pytestmark = [
    pytest.mark.usefixtures("no_figures"),
    pytest.mark.skipif(lock.fcntl is None, reason="no such locks here"),
]


def test_a_second_run_is_refused_and_touches_nothing(
    voc_args: Args, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, out = voc_args("--total_itrs", "2"), tmp_path / "out"
    assert main.main(arguments) == 0
    other = lock_in_another_process(out / f".{NAME}.lock")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    for how in ([], ["--overwrite"], ["--continue_training"]):
        assert main.main([*arguments, *how]) == 2
        error = capsys.readouterr().err
        assert error.startswith("main.py: error: another run (process ") and error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    # A test writes nothing that a run does.
    test = ["--ckpt", str(out / f"latest_{NAME}.pth"), "--test_only"]
    assert main.main([*arguments, *test]) == 0
    other.communicate()
    assert main.main([*arguments, "--overwrite"]) == 0
    assert not list(out.glob(".*"))
