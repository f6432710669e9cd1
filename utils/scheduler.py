"""Learning rates as plain functions of the step.

Nothing is carried from one step to the next but the step's number: a resumed run has the same
lr, to the last bit, as the uninterrupted one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

SCHEDULERS = ("poly", "step", "cosine")


class ClosedFormLR(LRScheduler, ABC):
    """A schedule whose lr depends on the step and the base lr alone, after a linear warm-up.

    Step t of the warm-up has base_lr * (t + 1) / warmup_iters; later ones have lr_at(t, base_lr).
    """

    def __init__(self, optimizer: Optimizer, *, warmup_iters: int, last_epoch: int = -1) -> None:
        self.warmup_iters = warmup_iters
        super().__init__(optimizer, last_epoch)

    @abstractmethod
    def lr_at(self, step: int, base_lr: float) -> float:
        """The lr of a step >= 0 when there is no warm-up."""

    def get_lr(self) -> list[float | Tensor]:
        """The lr of the present step (last_epoch), one per parameter group."""
        step = self.last_epoch
        if step < self.warmup_iters:
            return [float(base_lr) * ((step + 1) / self.warmup_iters) for base_lr in self.base_lrs]
        return [self.lr_at(step, float(base_lr)) for base_lr in self.base_lrs]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to the step of `state_dict`; the lengths and base lrs stay those of this scheduler.

        So a run that is resumed with another length or lr follows the new schedule from its present
        step on. This sets the optimizer's lrs: load the optimizer's state before.
        """
        step = state_dict.get("last_epoch")
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"scheduler state with last_epoch {step!r}; it must be a step >= 0")
        self.last_epoch = step
        self._step_count = step + 1
        self._last_lr = self.get_lr()
        groups = self.optimizer.param_groups
        for group, base_lr, lr in zip(groups, self.base_lrs, self._last_lr, strict=True):
            group["initial_lr"] = base_lr
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


class PolyLR(ClosedFormLR):
    """max(base_lr * (1 - step / max_iters)**power, min_lr), and min_lr past the end.

    A group whose base lr is below min_lr stays at its base lr: min_lr never raises an lr.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        power: float = 0.9,
        last_epoch: int = -1,
        min_lr: float = 1e-6,
        *,
        warmup_iters: int = 0,
    ) -> None:
        if max_iters < 1:
            raise ValueError(f"max_iters is {max_iters}; it must be at least 1")
        if not power > 0:
            raise ValueError(f"power is {power}; it must be above 0")
        self.max_iters = max_iters
        self.power = power
        self.min_lr = min_lr
        super().__init__(optimizer, last_epoch=last_epoch, warmup_iters=warmup_iters)

    def lr_at(self, step: int, base_lr: float) -> float:
        # Beyond max_iters the base of the power would be negative, and the power complex.
        left = max(1 - step / self.max_iters, 0.0)
        return max(base_lr * left**self.power, min(self.min_lr, base_lr))


class CosineLR(ClosedFormLR):
    """Half a cosine from base_lr at step 0 to min_lr at max_iters, and min_lr past the end.

    SGDR (Loshchilov and Hutter, 2017), eq. 5, without restarts. A group whose base lr is below
    min_lr stays at its base lr, as in PolyLR.
    """

    def __init__(
        self, optimizer: Optimizer, max_iters: int, *, min_lr: float = 1e-6, warmup_iters: int = 0
    ) -> None:
        self.max_iters = max_iters
        self.min_lr = min_lr
        super().__init__(optimizer, warmup_iters=warmup_iters)

    def lr_at(self, step: int, base_lr: float) -> float:
        floor = min(self.min_lr, base_lr)
        done = min(step / self.max_iters, 1.0)
        return floor + (base_lr - floor) * (1 + math.cos(math.pi * done)) / 2


class StepLR(ClosedFormLR):
    """base_lr * 0.1**(step // step_size); the warm-up's steps count too."""

    def __init__(self, optimizer: Optimizer, step_size: int, *, warmup_iters: int = 0) -> None:
        self.step_size = step_size
        super().__init__(optimizer, warmup_iters=warmup_iters)

    def lr_at(self, step: int, base_lr: float) -> float:
        return base_lr * 0.1 ** (step // self.step_size)


def create_scheduler(
    name: str, optimizer: Optimizer, *, total_itrs: int, step_size: int, warmup_itrs: int = 0
) -> ClosedFormLR:
    """Build the schedule `name`, one of SCHEDULERS; step() is called once a training step."""
    if name == "poly":
        return PolyLR(optimizer, total_itrs, warmup_iters=warmup_itrs)
    if name == "cosine":
        return CosineLR(optimizer, total_itrs, warmup_iters=warmup_itrs)
    assert name == "step"
    return StepLR(optimizer, step_size, warmup_iters=warmup_itrs)
