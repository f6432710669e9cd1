"""A run that is killed a hundred times, in mid-save too, ends as the undisturbed one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest

from tests.helpers import NAME, Args, assert_same_end
from tests.killed_run import MOMENTS, Plan, run

NUM_KILLS = int(os.environ.get("DEEPLAB_TEST_KILLS", "100"))
MOST_STEPS = 10  # between two kills


def plan_kill(chance: random.Random, number: int, mark: Path) -> Plan:
    """Every third kill is in mid-save, each kind of moment in turn, the others at any time."""
    if number % 3:
        return Plan(mark, MOST_STEPS, seconds=chance.uniform(0.05, 1.0))
    moment = MOMENTS[number // 3 % len(MOMENTS)]
    return Plan(mark, MOST_STEPS, moment=moment, which=chance.randint(1, 3), share=chance.random())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_that_is_killed_again_and_again_ends_as_the_undisturbed_one(
    voc_args: Args, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")  # imports once what each process needs
    context.set_forkserver_preload(["tests.killed_run"])
    log, mark, out, whole = (tmp_path / name for name in ("log", "mark", "out", "whole"))

    def ended(plan: Plan | None, *more: str) -> int:
        process = context.Process(target=run, args=(plan, [*arguments, *more], log))
        process.start()
        process.join(600)
        return process.exitcode

    total = str(MOST_STEPS * NUM_KILLS + MOST_STEPS)
    arguments = voc_args("--total_itrs", total, "--val_interval", "50", "--save_interval", "3")
    arguments += ["--keep_checkpoints", "3", "--vis_num_samples", "1"]
    chance, in_save = random.Random(0), 0
    for number in range(NUM_KILLS):
        plan = plan_kill(chance, number, mark)
        begun = (out / f"latest_{NAME}.pth").exists()
        code = ended(plan, "--continue_training" if begun else "--overwrite")
        assert code == -signal.SIGKILL, f"kill {number}, {plan}: exit {code}\n{log.read_text()}"
        in_save += mark.exists()
        mark.unlink(missing_ok=True)
    assert 10 * in_save >= NUM_KILLS, f"{in_save} of {NUM_KILLS} kills in mid-save"
    assert ended(None, "--continue_training") == 0, log.read_text()
    assert ended(None, "--output_dir", str(whole)) == 0, log.read_text()
    assert_same_end(whole, out)
    assert not list(out.glob("*.tmp"))
    print(f"{NUM_KILLS} kills, {in_save} in mid-save")
