"""The update of one training step, and how a step whose loss is NaN or infinite leaves no trace.

Nothing here waits for a GPU: whether a step was bad stays on the device, where it decides about
the update, and is read only when the loss is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from utils.distributed import World


class BadStepsError(FloatingPointError):
    """Too many bad steps in a row; ``step`` is the last of them."""

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


class Buffers:
    """A network's buffers (BatchNorm's statistics) as they were before the present step.

    Copies lie side by side, one tensor a data type, so that taking and restoring hundreds of them
    are a few kernels each.
    """

    def __init__(self, network: nn.Module) -> None:
        self._groups = []
        for dtype in dict.fromkeys(buffer.dtype for buffer in network.buffers()):
            live = [buffer for buffer in network.buffers() if buffer.dtype == dtype]
            before, after = (live[0].new_empty(sum(b.numel() for b in live)) for _ in range(2))
            sizes = [buffer.numel() for buffer in live]
            views = [
                [part.view_as(b) for part, b in zip(flat.split(sizes), live, strict=True)]
                for flat in (before, after)
            ]
            self._groups.append((live, before, after, *views))

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the present values."""
        for live, _, _, before_views, _ in self._groups:
            torch._foreach_copy_(before_views, live)

    @torch.no_grad()
    def restore_if(self, bad: Tensor) -> None:
        """Put the kept values back where the scalar ``bad`` is true."""
        for live, before, after, _, after_views in self._groups:
            torch._foreach_copy_(after_views, live)
            torch.where(bad, before, after, out=after)
            torch._foreach_copy_(live, after_views)


class BadSteps:
    """Makes the optimizer's update, unless the loss, or the gradient's norm, is not finite.

    A bad step leaves weights, optimizer state and BatchNorm statistics as they were; in a world of
    many, one process's bad step is everybody's. A fused optimizer skips the update on the device;
    another one is asked from the host, which waits for the device.

    With an enabled ``scaler`` (fp16) a gradient that overflows is the scaler's to skip, and only
    the loss makes a step bad. Make it when the optimizer's state has been loaded. ``max_norm`` > 0
    clips the gradient to that norm.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_bad_steps: int,
        world: World,
        scaler: torch.amp.GradScaler | None = None,
        max_norm: float = 0.0,
    ) -> None:
        self.optimizer, self.world = optimizer, world
        self.max_bad_steps, self.max_norm = max_bad_steps, max_norm
        self.scaler = scaler or torch.amp.GradScaler(world.device.type, enabled=False)
        self._buffers = Buffers(network)
        self._fused = all(group.get("fused") for group in optimizer.param_groups)
        # Bad steps in a row up to now; the most in a row, all, and the last one since poll().
        self._counts = torch.zeros(4, dtype=torch.int64, device=world.device)
        if self._fused:
            self._prepare_momentum()

    def before_step(self) -> None:
        """Call it before the step's first forward pass."""
        self._buffers.keep()

    def step(self, step: int, loss: Tensor) -> None:
        """Clip, update, and forget the gradients; ``loss`` is the step's scalar, number ``step``.

        Call it after the backward pass, of the last of several where gradients accumulate.
        """
        bad = ~loss.detach().isfinite()
        if self.world.size > 1:
            bad = self.world.sum(bad.float()) > 0
        if self.scaler.is_enabled():
            self._poison(bad)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        if not self.scaler.is_enabled():
            bad = bad | ~norm.isfinite()
        self._update(bad)
        self._buffers.restore_if(bad)
        self._count(step, bad)
        self.optimizer.zero_grad()

    def poll(self) -> int:
        """The bad steps since the last call; waits for the device.

        Raises BadStepsError if more than ``max_bad_steps`` came in a row.
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

    def _gradients(self) -> Iterable[Tensor]:
        groups = self.optimizer.param_groups
        return (p.grad for group in groups for p in group["params"] if p.grad is not None)

    def _clip(self) -> Tensor:
        """The gradient's norm before it is clipped."""
        if not self.max_norm:
            return nn.utils.get_total_norm(list(self._gradients()))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self.max_norm)

    def _poison(self, bad: Tensor) -> None:
        """Make a gradient NaN in a bad step: then the scaler skips it, whatever the others are."""
        first = next(iter(self._gradients()), None)
        if first is not None:
            first.add_(torch.where(bad, torch.nan, 0.0).to(first.dtype))

    def _update(self, bad: Tensor) -> None:
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        if self._fused:
            self.optimizer.found_inf = bad.float()
        elif bad:
            self.optimizer.zero_grad()  # without gradients nothing moves, decay included
        self.optimizer.step()

    def _count(self, step: int, bad: Tensor) -> None:
        row, longest, total, last = self._counts.unbind()
        row = (row + 1) * bad
        self._counts = torch.stack(
            [row, torch.maximum(longest, row), total + bad, last + (step - last) * bad]
        )

    def _prepare_momentum(self) -> None:
        """Zero momentum instead of none, which is the same to the first update.

        When torch's fused SGD skips its first update, it leaves the new momentum uninitialised.
        """
        for group in self.optimizer.param_groups:
            for parameter in group["params"] if group.get("momentum") else ():
                state = self.optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
