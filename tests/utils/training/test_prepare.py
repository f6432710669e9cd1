"""A run continues from a checkpoint: optimizer, schedule, generators, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from network.pretrained import Checkpoint
from utils import options
from utils.optimizer import create_optimizer
from utils.runtime import checkpoint
from utils.runtime.distributed import World
from utils.scheduler import create_scheduler
from utils.training.ema import Ema
from utils.training.prepare import restore_training_state
from utils.training.start import StartPoint
from utils.training.step import OptimizerStep

WORLD = World(0, 1, torch.device("cpu"))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 3)
        self.classifier = nn.Linear(3, 2)


def build(
    optimizer: str = "sgd",
    *,
    total_itrs: int = 10,
    weight_decay: float = 0.0,
    ema: float = 0.0,
) -> OptimizerStep:
    model = Parts()
    made = create_optimizer(
        optimizer, model, lr=0.1, backbone_lr_mult=0.1, weight_decay=weight_decay
    )
    schedule = create_scheduler("poly", made, total_itrs=total_itrs, step_size=5)
    average = Ema(model, ema) if ema else None
    return OptimizerStep(model, made, schedule, world=WORLD, max_bad_steps=1, ema=average)


def saved_after(steps: int, optimizer: str = "sgd", **settings: float) -> Checkpoint:
    step = build(optimizer, **settings)
    model = step.ema.model if not settings.get("ema") else Parts()
    for number in range(1, steps + 1):
        step.before_forward()
        loss = model.classifier(model.backbone(torch.ones(1, 3))).sum()
        step.backward(loss)
        step.update(number, loss)
    return {**step.entries(), "cur_itrs": steps, "rng": [checkpoint.rng_state()]}


def resume(saved: Checkpoint, step: OptimizerStep, **optim: float) -> list[str]:
    """Continue from the checkpoint `saved`; returns the notes for the user."""
    opts = options.parse_main([])
    opts = replace(opts, optim=replace(opts.optim, **({"total_itrs": 10} | optim)))
    files = checkpoint.RunFiles(Path("out"), "r")
    start = StartPoint(files, 16, Path("x.pth"), saved, resumes=True, notes=[])
    restore_training_state(step, opts, start=start, world=WORLD)
    return start.notes


def test_moments_position_and_generators_come_back_but_settings_are_those_asked_for() -> None:
    torch.manual_seed(3)
    saved = saved_after(4)
    expected = torch.rand(3)
    step = build(total_itrs=20, weight_decay=0.5)
    saved["options"] = options.flat(
        options.parse_main(["--total_itrs", "10", "--num_workers", "0"])
    )
    notes = resume(saved, step, total_itrs=20)
    assert len(notes) == 1 and "--total_itrs was 10" in notes[0] and "now 20" in notes[0]
    assert torch.equal(torch.rand(3), expected)
    head = step.optimizer.param_groups[1]
    assert head["lr"] == step.learning_rates["lr"] == pytest.approx(0.1 * (1 - 4 / 20) ** 0.9)
    assert head["weight_decay"] == 0.5
    moments = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    expected_moments = saved["optimizer_state"]["state"].values()
    assert len(moments) == 4
    for one, two in zip(moments, expected_moments, strict=True):
        assert torch.equal(one, two["momentum_buffer"])


def test_a_scheduler_saved_one_step_behind_is_set_right() -> None:
    saved = saved_after(4)
    saved["scheduler_state"]["last_epoch"] = 3  # as the predecessor saved it
    del saved["rng"]
    step = build()
    (note,) = resume(saved, step)
    assert step.learning_rates["lr"] == pytest.approx(0.1 * (1 - 4 / 10) ** 0.9)
    assert "no random state" in note


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda saved: saved.pop("optimizer_state"), "has no optimizer_state"),
        (lambda saved: saved.update(saved_after(1, "adamw")), "does not fit SGD"),
        (lambda saved: saved.update(cur_itrs=11), "x.pth is at step 11, past --total_itrs 10"),
    ],
)
def test_a_file_that_cannot_be_continued_is_an_error(
    change: Callable[[Checkpoint], object], expected: str
) -> None:
    saved = saved_after(2)
    change(saved)
    with pytest.raises(ValueError, match=expected):
        resume(saved, build())


def test_other_threads_are_said() -> None:
    saved = saved_after(1)
    saved["num_threads"] = 77
    (note,) = resume(saved, build())
    assert "77 threads" in note


def test_averages_that_begin_or_end_are_said() -> None:
    (note,) = resume(saved_after(1), build(ema=0.9), ema=0.9)
    assert "the average starts from its weights" in note
    (note,) = resume(saved_after(1, ema=0.9), build())
    assert "averaged weights are dropped" in note
    assert resume(saved_after(1, ema=0.9), build(ema=0.9), ema=0.9) == []


def test_another_number_of_processes_is_said() -> None:
    saved = saved_after(1)
    saved["rng"] *= 4
    (note,) = resume(saved, build())
    assert note.startswith("the run had 4 process(es), now it has 1: ")
