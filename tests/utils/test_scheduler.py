"""Schedules against literals, torch's StepLR, and uninterrupted runs, bit for bit."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD

from utils.scheduler import ClosedFormLR, CosineLR, PolyLR, StepLR, create_scheduler


def make_optimizer(*lrs: float) -> SGD:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs or (0.001, 0.01)]
    return SGD(groups, lr=1.0)


def lrs_of(scheduler: ClosedFormLR) -> list[float]:
    return [group["lr"] for group in scheduler.optimizer.param_groups]


def advance(scheduler: ClosedFormLR, num_steps: int) -> list[list[float]]:
    """Step, and give the lrs that each step's update would use: the present ones come first."""
    history = [lrs_of(scheduler)]
    for _ in range(num_steps):
        scheduler.optimizer.step()
        scheduler.step()
        history.append(lrs_of(scheduler))
    return history


MAKE: dict[str, Callable[[SGD], ClosedFormLR]] = {
    "poly": lambda optimizer: PolyLR(optimizer, 30),
    "poly with warm-up": lambda optimizer: PolyLR(optimizer, 30, warmup_iters=7),
    "cosine": lambda optimizer: CosineLR(optimizer, 30),
    "cosine with warm-up": lambda optimizer: CosineLR(optimizer, 30, warmup_iters=7),
    "step": lambda optimizer: StepLR(optimizer, 4),
    "step with warm-up": lambda optimizer: StepLR(optimizer, 4, warmup_iters=7),
}


def test_poly_literals() -> None:
    """0.01 * (1 - t / 100)**0.9, worked out elsewhere."""
    history = advance(PolyLR(make_optimizer(0.01), 100), 100)
    expected = {0: 0.01, 1: 0.0099099549, 10: 0.0090953258, 50: 0.0053588673, 99: 0.000158489319}
    for step, lr in expected.items():
        assert history[step] == [pytest.approx(lr, rel=1e-7)], step
    assert history[100] == [1e-6]


def test_poly_keeps_the_ratio_of_the_groups_down_to_the_floor() -> None:
    for backbone_lr, head_lr in advance(PolyLR(make_optimizer(0.001, 0.01), 50), 49):
        assert head_lr == pytest.approx(10 * backbone_lr)
    assert advance(PolyLR(make_optimizer(1e-4, 1e-2), 10**6, last_epoch=-1), 0) == [[1e-4, 1e-2]]


def test_poly_past_the_end_is_the_floor_and_real() -> None:
    scheduler = PolyLR(make_optimizer(), 5)
    history = advance(scheduler, 40)
    assert all(type(lr) is float and math.isfinite(lr) for lrs in history for lr in lrs)
    assert history[5:] == [[1e-6, 1e-6]] * 36
    assert advance(PolyLR(make_optimizer(), 5, min_lr=1e-3), 9)[-1] == [1e-3, 1e-3]


def test_floor_raises_no_lr() -> None:
    assert (
        advance(PolyLR(make_optimizer(0.0, 1e-8), 3), 3)
        == [
            [0.0, pytest.approx(1e-8)],
        ]
        * 4
    )


def test_cosine_equals_torch_and_its_literals() -> None:
    ours = advance(CosineLR(make_optimizer(), 40, min_lr=1e-4), 60)
    optimizer = make_optimizer()
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=1e-4)
    for lrs in ours[:41]:
        assert lrs == pytest.approx([group["lr"] for group in optimizer.param_groups], rel=1e-9)
        optimizer.step()
        theirs.step()
    assert ours[40:] == [[1e-4, 1e-4]] * 21
    # Half and a third of the way: (1 + cos 90 deg) / 2 and (1 + cos 60 deg) / 2.
    history = advance(CosineLR(make_optimizer(0.8), 12, min_lr=0.0), 6)
    assert (history[4], history[6]) == ([pytest.approx(0.6)], [pytest.approx(0.4)])
    assert advance(CosineLR(make_optimizer(0.0, 1e-8), 3), 3)[-1] == [0.0, 1e-8]


@pytest.mark.parametrize("policy", ["poly", "step", "cosine"])
def test_warmup(policy: str) -> None:
    scheduler = create_scheduler(
        policy, make_optimizer(0.1), total_itrs=20, step_size=8, warmup_itrs=5
    )
    history = [lr for (lr,) in advance(scheduler, 19)]
    assert history[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    if policy == "poly":
        assert history[5:] == pytest.approx([0.1 * (1 - t / 20) ** 0.9 for t in range(5, 20)])
    elif policy == "cosine":
        cosine = [0.05 * (1 + math.cos(math.pi * t / 20)) for t in range(5, 20)]
        assert history[5:] == pytest.approx(cosine, abs=1e-6)  # the floor lifts them
    else:
        assert history[5:] == pytest.approx([0.1] * 3 + [0.01] * 8 + [0.001] * 4)


def test_step_policy_equals_torch() -> None:
    ours = advance(StepLR(make_optimizer(), 7), 40)
    optimizer = make_optimizer()
    theirs_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for lrs in ours:
        assert lrs == pytest.approx([group["lr"] for group in optimizer.param_groups], rel=1e-12)
        optimizer.step()
        theirs_scheduler.step()


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("stop", [0, 1, 6, 7, 13, 30, 33])
def test_resumed_is_uninterrupted_to_the_last_bit(name: str, stop: int) -> None:
    whole = advance(MAKE[name](make_optimizer()), 40)
    first = MAKE[name](make_optimizer())
    advance(first, stop)
    file = io.BytesIO()
    torch.save((first.optimizer.state_dict(), first.state_dict()), file)
    file.seek(0)
    optimizer_state, scheduler_state = torch.load(file, weights_only=True)

    optimizer = make_optimizer()
    resumed = MAKE[name](optimizer)
    optimizer.load_state_dict(optimizer_state)
    resumed.load_state_dict(scheduler_state)
    assert resumed.last_epoch == stop
    assert resumed.get_last_lr() == lrs_of(resumed) == whole[stop]
    assert advance(resumed, 40 - stop) == whole[stop:]
    assert resumed.state_dict() == advanced_state(name, 40)


def advanced_state(name: str, num_steps: int) -> dict[str, object]:
    scheduler = MAKE[name](make_optimizer())
    advance(scheduler, num_steps)
    return scheduler.state_dict()


@pytest.mark.parametrize("new_length", [5, 12, 20, 100])
def test_another_length_continues_at_the_present_step(new_length: int) -> None:
    first = PolyLR(make_optimizer(), 20)
    advance(first, 12)
    state = first.state_dict()
    assert state["max_iters"] == 20
    resumed = PolyLR(make_optimizer(), new_length)
    resumed.load_state_dict(state)
    assert resumed.max_iters == new_length
    straight = advance(PolyLR(make_optimizer(), new_length), 130)
    assert advance(resumed, 118) == straight[12:]


def test_another_lr_wins_over_the_state_and_the_optimizers() -> None:
    first = PolyLR(make_optimizer(0.001, 0.01), 20)
    advance(first, 5)
    optimizer = make_optimizer(0.002, 0.02)
    resumed = PolyLR(optimizer, 20)
    optimizer.load_state_dict(first.optimizer.state_dict())
    assert lrs_of(resumed)[1] < 0.01
    resumed.load_state_dict(first.state_dict())
    assert advance(resumed, 5) == advance(PolyLR(make_optimizer(0.002, 0.02), 20), 10)[5:]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.002, 0.02]


PREDECESSOR_STATES = {
    "poly": {
        "power": 0.9,
        "max_iters": 30000.0,
        "min_lr": 1e-06,
        "base_lrs": [0.001, 0.01],
        "last_epoch": 11999,
        "_step_count": 12000,
        "verbose": False,
        "_get_lr_called_within_step": False,
        "_last_lr": [0.0006314, 0.006314],
    },
    "step": {
        "step_size": 10000,
        "gamma": 0.1,
        "base_lrs": [0.001, 0.01],
        "last_epoch": 11999,
        "_step_count": 12000,
        "_last_lr": [0.0001, 0.001],
    },
}


@pytest.mark.parametrize("policy", PREDECESSOR_STATES)
def test_the_predecessors_state_loads(policy: str) -> None:
    state = copy.deepcopy(PREDECESSOR_STATES[policy])
    scheduler = create_scheduler(policy, make_optimizer(), total_itrs=30000, step_size=10000)
    scheduler.load_state_dict(state)
    assert state == PREDECESSOR_STATES[policy]
    factor = (1 - 11999 / 30000) ** 0.9 if policy == "poly" else 0.1
    assert lrs_of(scheduler) == pytest.approx([0.001 * factor, 0.01 * factor], rel=1e-12)
    assert not hasattr(scheduler, "verbose")
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.last_epoch == 12000


def test_tensor_lr_is_set_in_place() -> None:
    lr = torch.tensor(0.5)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=lr, capturable=False)
    scheduler = PolyLR(optimizer, 10)
    scheduler.load_state_dict({"last_epoch": 5})
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.5 * 0.5**0.9)


def test_bad_input() -> None:
    optimizer = make_optimizer()
    with pytest.raises(ValueError, match="max_iters is 0; it must be at least 1"):
        PolyLR(optimizer, 0)
    with pytest.raises(ValueError, match="power is 0"):
        PolyLR(optimizer, 10, power=0)
    for state in ({}, {"last_epoch": -1}, {"last_epoch": "5"}):
        with pytest.raises(ValueError, match="scheduler state with last_epoch"):
            PolyLR(optimizer, 10).load_state_dict(state)
