"""One step of the optimizer, and how a step with a NaN or infinite loss is undone.

Nothing here waits for a GPU. Whether a step was bad stays on the device, decides there about the
update, and is read only when the loss is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from network import DeepLabV3
from network.pretrained import Checkpoint
from utils.runtime.buffers import buffer_groups, flat_buffers, set_buffers
from utils.runtime.checkpoint import moments_fit
from utils.runtime.distributed import World
from utils.scheduler import ClosedFormLR
from utils.training.ema import Ema, NoEma


@dataclass
class TrainingState:
    """How far a run is, and how good it was."""

    step: int = 0
    best_score: float = 0.0
    best_step: int = 0
    validations_since_best: int = 0
    validation_due: bool = False  # that of the present step has not ended

    @classmethod
    def of(cls, saved: Checkpoint) -> TrainingState:
        """The state in a checkpoint; the first state if the checkpoint is empty."""
        return cls(
            step=saved.get("cur_itrs", 0),
            best_score=float(saved.get("best_score", 0)),
            best_step=saved.get("best_itrs", 0),
            validations_since_best=saved.get("num_worse", 0),
            validation_due=saved.get("validation_due", False),
        )

    def entries(self) -> Checkpoint:
        """What a checkpoint keeps of it, under the names that its files always had."""
        return {
            "cur_itrs": self.step,
            "best_score": self.best_score,
            "best_itrs": self.best_step,
            "num_worse": self.validations_since_best,
            "validation_due": self.validation_due,
        }

    def update(self, score: float) -> bool:
        """Count a validation at the present step; returns whether its `score` is the best so far.

        NaN never is.
        """
        self.validation_due = False
        if math.isnan(score) or score <= self.best_score:
            self.validations_since_best += 1
            return False
        self.best_score, self.best_step, self.validations_since_best = score, self.step, 0
        return True


# The smallest scale of fp16's gradients, which multiplies them by nothing. Gradients that overflow
# without being scaled are the network's fault.
MIN_SCALE = 1.0


class BadStepsError(FloatingPointError):
    """Too many bad steps in a row; `step` is the last of them."""

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


class OptimizerStep:
    """Everything that happens to the weights after the gradients are there.

    `update` clips the gradients, takes the optimizer's step, clears the gradients, and advances the
    learning rate and the averaged weights. If the loss or the norm of the gradients is not finite,
    the step is bad: weights, optimizer state and BatchNorm statistics stay as they were, and only
    the schedule and the average advance. A step that is bad in one process is bad in all.

    A fused optimizer skips a bad update on the device. For any other, the CPU reads whether the
    step was bad, which waits for the device. Under fp16 the scaler skips gradients that overflow
    and halves its scale, which is no bad step as long as the scale is above MIN_SCALE.

    Load the optimizer's state with `load`, after this is made. `max_norm` 0 does not clip.
    """

    def __init__(
        self,
        model: DeepLabV3,
        optimizer: torch.optim.Optimizer,
        scheduler: ClosedFormLR,
        *,
        world: World,
        max_bad_steps: int,
        scaler: torch.amp.GradScaler | None = None,
        ema: Ema | NoEma | None = None,
        max_norm: float = 0.0,
    ) -> None:
        self.optimizer, self.scheduler, self.world = optimizer, scheduler, world
        self.scaler = scaler or torch.amp.GradScaler(world.device.type, enabled=False)
        self.ema = ema or NoEma(model)
        self.max_bad_steps, self.max_norm = max_bad_steps, max_norm
        self._buffers, self._kept = buffer_groups(model), list[Tensor]()
        self.gradient_norm = torch.tensor(math.nan)  # of the last step, before clipping
        self._fused = all(group.get("fused") for group in optimizer.param_groups)
        # Bad steps in a row up to now. Since the last poll: the most in a row, all, the last one.
        self._counts = torch.zeros(4, dtype=torch.int64, device=world.device)
        self._prepare_momentum()

    @property
    def learning_rates(self) -> dict[str, float]:
        """Those of the head and the backbone in the coming step."""
        groups = self.optimizer.param_groups
        return {"lr": groups[-1]["lr"], "lr backbone": groups[0]["lr"]}

    def before_forward(self) -> None:
        """Keep what a bad step must not change; call it before the step's first forward pass."""
        self._kept = flat_buffers(self._buffers)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one batch, whose `loss` is its share of the step's."""
        # Several processes take the mean of their gradients, and the loss is the sum of the shares.
        self.scaler.scale(loss * self.world.size).backward()

    def update(self, step: int, loss: Tensor) -> None:
        """Change the weights by the gradients; `loss` is this process's, `step` counts from 1."""
        bad = ~loss.detach().isfinite()
        if self.world.size > 1:
            bad = self.world.sum(bad.float()) > 0
        if self.scaler.is_enabled():
            bad = self._scaled_update(bad)
        else:
            self.gradient_norm = self._clip_gradients()
            bad = bad | ~self.gradient_norm.isfinite()
            self._skip_update_if(bad)
            self.optimizer.step()
        self.optimizer.zero_grad()
        pairs = zip(self._kept, flat_buffers(self._buffers), strict=True)
        set_buffers(self._buffers, [torch.where(bad, *pair) for pair in pairs])
        self._count(step, bad)
        self.scheduler.step()
        self.ema.update()

    def _scaled_update(self, bad: Tensor) -> Tensor:
        """Let the scaler update the weights and its scale; returns whether the step is bad."""
        self._spoil_gradient_if(bad)
        self.scaler.unscale_(self.optimizer)
        self.gradient_norm = self._clip_gradients()
        scale = self.scaler.scale(torch.ones((), device=bad.device))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # At a scale of 0 every gradient would be 0, and NaN after it is divided by the scale.
        lowered = self.scaler.scale(torch.ones((), device=bad.device))
        self.scaler.update(lowered.clamp(min=MIN_SCALE))
        return bad | (~self.gradient_norm.isfinite() & (scale <= MIN_SCALE))

    def poll(self) -> int:
        """The number of bad steps since the last call; waits for the device.

        Raises BadStepsError if more than `max_bad_steps` came in a row.
        """
        row, longest, total, last = self._counts.tolist()
        if longest > self.max_bad_steps:
            raise BadStepsError(
                f"the loss or its gradient was NaN or infinite in {longest} steps in a row, last "
                f"in step {last}; --max_bad_steps allows {self.max_bad_steps}",
                step=last,
            )
        self._counts.copy_(torch.tensor([row, row, 0, last]))
        return total

    def entries(self) -> Checkpoint:
        """What a checkpoint keeps of it."""
        return {
            "optimizer_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            **self.ema.entries(),
        }

    def load(self, saved: Checkpoint, *, source: str) -> None:
        """Go on from a checkpoint, which errors call `source`.

        Lengths, learning rates and settings of the optimizer stay those asked for now. Raises
        ValueError if the checkpoint holds no training state, or that of another optimizer.
        """
        needed = ("optimizer_state", "scheduler_state", "cur_itrs")
        if missing := [key for key in needed if key not in saved]:
            raise ValueError(
                f"{source}: training cannot continue from it, since it has no "
                f"{' and no '.join(missing)}; leave out --continue_training to start from its "
                "weights"
            )
        _load_optimizer(self.optimizer, saved["optimizer_state"], source=source)
        # The step counts, not the stored position: the predecessor saved before its scheduler's
        # step.
        position = {"last_epoch": saved["cur_itrs"]}
        self.scheduler.load_state_dict({**saved["scheduler_state"], **position})
        if scaler := saved.get("scaler_state"):
            self.scaler.load_state_dict({**scaler, "scale": max(scaler["scale"], MIN_SCALE)})
        self.ema.load(saved)
        self._prepare_momentum()

    def _gradients(self) -> Iterable[Tensor]:
        groups = self.optimizer.param_groups
        return (p.grad for group in groups for p in group["params"] if p.grad is not None)

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients; returns their norm before that."""
        if not self.max_norm:
            return nn.utils.get_total_norm(list(self._gradients()))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self.max_norm)

    def _spoil_gradient_if(self, bad: Tensor) -> None:
        """Make one gradient NaN in a bad step: then the scaler skips the update."""
        first = next(iter(self._gradients()), None)
        if first is not None:
            first.masked_fill_(bad, torch.nan)

    def _skip_update_if(self, bad: Tensor) -> None:
        """Let the next `optimizer.step()` change nothing in a bad step."""
        if self._fused:
            # What torch's GradScaler sets, and the fused kernels read on the device.
            setattr(self.optimizer, "found_inf", bad.float())  # noqa: B010  # undeclared
        elif bad:
            self.optimizer.zero_grad()  # without gradients nothing moves, weight decay included

    def _prepare_momentum(self) -> None:
        """Give the momentum that is not there yet the value 0, which gives the same update.

        torch's fused SGD leaves a new momentum uninitialized if it skips its first update.
        """
        for group in self.optimizer.param_groups if self._fused else ():
            for parameter in group["params"] if group.get("momentum") else ():
                state = self.optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)

    def _count(self, step: int, bad: Tensor) -> None:
        row, longest, total, last = self._counts.unbind()
        row = (row + 1) * bad
        self._counts = torch.stack(
            [row, torch.maximum(longest, row), total + bad, last + (step - last) * bad]
        )


def _load_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], *, source: str
) -> None:
    """Load moments and momentum buffers; learning rates and weight decay stay as they are."""
    now, then = optimizer.state_dict()["param_groups"], state["param_groups"]
    same_sizes = [len(group["params"]) for group in now] == [len(g["params"]) for g in then]
    numbers = [number for group in then for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    adaptive = "betas" in now[0]
    if not same_sizes or not all(
        moments_fit(state["state"].get(number, {}), parameter, adaptive=adaptive)
        for number, parameter in zip(numbers, parameters, strict=True)
    ):
        raise ValueError(
            f"{source}: its optimizer state does not fit {type(optimizer).__name__} here; give the "
            "--optimizer, --no_decay_norm_bias and --aux_loss it was trained with, or leave out "
            "--continue_training"
        )
    groups = [{**new, "params": old["params"]} for new, old in zip(now, then, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    # Fused kernels refuse a moment whose elements lie in another order than its parameter's, as in
    # the predecessor's checkpoints, which know no channels_last.
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
