"""A run that is killed at any moment, in mid-save too, and again and again, ends as any other."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import main
from tests.helpers import NAME, Args, assert_same_end, read
from tests.killed_run import MOMENTS, Plan, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")

NUM_KILLS = int(os.environ.get("DEEPLAB_TEST_KILLS", "100"))
MOST_STEPS = 10  # between two kills
STEPS = "--total_itrs 6 --save_interval 1".split()  # an epoch has 3, and every second validates


@pytest.fixture
def ended(tmp_path: Path) -> Callable[[Plan | None, Sequence[str]], int]:
    """The exit code of `main.py` in a process of its own that dies by a plan."""
    context = multiprocessing.get_context("forkserver")  # imports once what each process needs
    context.set_forkserver_preload(["tests.killed_run"])

    def end(plan: Plan | None, arguments: Sequence[str]) -> int:
        process = context.Process(target=run, args=(plan, arguments, tmp_path / "log"))
        process.start()
        process.join(600)
        return process.exitcode

    return end


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """The folder of an undisturbed run; the data of all tests is the same."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def get(arguments: list[str]) -> Path:
        if not (folder / NAME).exists():
            assert main.main([*arguments, "--output_dir", str(folder)]) == 0
        return folder

    return get


@pytest.mark.parametrize(
    ("plan", "workers", "latest", "best"),
    [
        pytest.param({"steps": 5}, "2", 4, (2, 4), id="mid-epoch-2-workers"),
        pytest.param({"steps": 5}, "0", 4, (2, 4), id="mid-epoch", marks=pytest.mark.slow),
        # Saved in step 1: latest; in step 2: latest, and after the validation best and latest.
        pytest.param({"moment": "write", "which": 5, "share": 0.5}, "0", 2, (2,), id="mid-save"),
        pytest.param(
            {"moment": "replaced", "which": 3},
            "0",
            2,
            (2,),
            id="only-best-saved",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_run_ends_as_the_undisturbed_one(
    plan: dict,
    workers: str,
    latest: int,
    best: tuple[int, ...],
    ended: Callable[[Plan | None, Sequence[str]], int],
    undisturbed: Callable[[list[str]], Path],
    voc_args: Args,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = voc_args(*STEPS, "--num_workers", workers)
    whole, out = undisturbed(arguments), tmp_path / "out"
    plan = Plan(**{"mark": tmp_path / "mark", "steps": 9, **plan})
    assert ended(plan, arguments) == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert plan.mark.exists() == bool(plan.moment)
    assert read(out)["cur_itrs"] == latest and read(out, "best")["cur_itrs"] in best
    capsys.readouterr()
    assert main.main([*arguments, "--continue_training"]) == 0
    assert f"training continues at step {latest} of 6" in capsys.readouterr().out
    assert_same_end(whole, out)
    assert not [path for path in out.rglob("*") if path.suffix == ".tmp"]


def plan_kill(chance: random.Random, number: int, mark: Path) -> Plan:
    """Every third kill is in mid-save, each kind of moment in turn, the others at any time."""
    if number % 3:
        return Plan(mark, MOST_STEPS, seconds=chance.uniform(0.05, 1.0))
    moment = MOMENTS[number // 3 % len(MOMENTS)]
    return Plan(mark, MOST_STEPS, moment=moment, which=chance.randint(1, 3), share=chance.random())


@pytest.mark.slow  # a hundred starts
def test_a_run_that_is_killed_again_and_again_ends_as_the_undisturbed_one(
    ended: Callable[[Plan | None, Sequence[str]], int], voc_args: Args, tmp_path: Path
) -> None:
    log, mark, out, whole = (tmp_path / name for name in ("log", "mark", "out", "whole"))
    total = str(MOST_STEPS * NUM_KILLS + MOST_STEPS)
    arguments = voc_args("--total_itrs", total, "--val_interval", "50", "--save_interval", "3")
    arguments += ["--keep_checkpoints", "3", "--vis_num_samples", "1"]
    chance, in_save = random.Random(0), 0
    for number in range(NUM_KILLS):
        plan = plan_kill(chance, number, mark)
        begun = (out / f"latest_{NAME}.pth").exists()
        code = ended(plan, [*arguments, "--continue_training" if begun else "--overwrite"])
        assert code == -signal.SIGKILL, f"kill {number}, {plan}: exit {code}\n{log.read_text()}"
        in_save += mark.exists()
        mark.unlink(missing_ok=True)
    assert 10 * in_save >= NUM_KILLS, f"{in_save} of {NUM_KILLS} kills in mid-save"
    assert ended(None, [*arguments, "--continue_training"]) == 0, log.read_text()
    assert ended(None, [*arguments, "--output_dir", str(whole)]) == 0, log.read_text()
    assert_same_end(whole, out)
    assert not list(out.glob("*.tmp"))
    print(f"{NUM_KILLS} kills, {in_save} in mid-save")
