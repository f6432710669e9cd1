"""Whatever goes wrong in a validation costs no training, and the run goes on as if nothing was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import main
from tests.helpers import NAME, Args, assert_same_end, history, read
from utils.training import report

pytestmark = pytest.mark.usefixtures("no_figures")

STEPS = "--total_itrs 6 --val_interval 3 --ema 0.5".split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    folder = tmp_path_factory.mktemp("undisturbed")

    def get(arguments: list[str]) -> Path:
        if not (folder / NAME).exists():
            assert main.main([*arguments, "--output_dir", str(folder)]) == 0
        return folder

    return get


def before_it(monkeypatch: pytest.MonkeyPatch, step: int, fail: Callable[[], None]) -> None:
    validate = main.validate

    def failing(run: object, at: int, *others: object) -> float:
        if at == step:
            fail()
        return validate(run, at, *others)

    monkeypatch.setattr(main, "validate", failing)


def after_it(monkeypatch: pytest.MonkeyPatch, step: int, fail: Callable[[], None]) -> None:
    """When the history has its lines already."""
    told = report.report_validation

    def failing(run: object, at: int, *others: object) -> None:
        told(run, at, *others)
        if at == step:
            fail()

    monkeypatch.setattr(report, "report_validation", failing)


def out_of_memory() -> None:
    raise MemoryError


def ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("moment", "step", "fail", "code"),
    [
        (before_it, 3, out_of_memory, 2),
        pytest.param(after_it, 3, ctrl_c, 130, marks=pytest.mark.slow),
        pytest.param(before_it, 6, ctrl_c, 130, marks=pytest.mark.slow),
        (after_it, 6, out_of_memory, 2),
    ],
)
def test_a_validation_that_failed_is_done_first_when_the_run_goes_on(
    moment: Callable[..., None],
    step: int,
    fail: Callable[[], None],
    code: int,
    voc_args: Args,
    undisturbed: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, out = voc_args(*STEPS), tmp_path / "out"
    whole = undisturbed(arguments)
    with monkeypatch.context() as patch:
        moment(patch, step, fail)
        assert main.main(arguments) == code
    assert "continue with --continue_training" in capsys.readouterr().err
    saved = read(out)
    assert (saved["cur_itrs"], saved["validation_due"]) == (step, True)
    assert main.main([*arguments, "--continue_training"]) == 0
    assert f"training continues at step {step} of 6, with its validation" in capsys.readouterr().out
    assert_same_end(whole, out, kinds=("latest", "best", "latest.1"))
    assert read(out)["validation_due"] is False


def test_early_stopping_counts_a_validation_that_was_due(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    scores = {1: 0.5, 2: 0.4, 3: 0.3}
    arguments = voc_args("--val_interval", "1", "--early_stop", "2")
    monkeypatch.setattr(main, "validate", lambda run, step, trackers: scores[step])
    with monkeypatch.context() as patch:
        before_it(patch, 3, out_of_memory)
        assert main.main(arguments) == 2
    assert main.main([*arguments, "--continue_training"]) == 0
    assert "stopped after step 3 of 4: no better score since step 1" in capsys.readouterr().out
    assert read(tmp_path / "out")["num_worse"] == 2


def test_a_signal_in_a_validation_waits_for_its_end(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before_it(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main.main(voc_args("--total_itrs", "9")) == 0
    saved = read(tmp_path / "out")
    assert (saved["cur_itrs"], saved["validation_due"]) == (3, False)
    assert [line["step"] for line in history(tmp_path / "out") if "validation loss" in line] == [2]
