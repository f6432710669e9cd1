"""What a run says of the training steps since its last report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.runtime.memory import peak_memory
from utils.training.run import Run
from utils.training.step import TrainingState
from utils.visualizer import Progress, Trackers


def report_step(
    run: Run,
    state: TrainingState,
    losses: Sequence[Tensor],
    rates: Mapping[str, float],
    trackers: Trackers,
    progress: Progress,
) -> None:
    """Show the mean of the finite `losses` since the last report, and what else is known."""
    step, num_bad = state.step, run.optimizer_step.poll()
    whole = run.world.sum(torch.stack(list(losses)))  # of each loss, a process has its share
    loss = whole[whole.isfinite()].mean().item()
    images = step * run.opts.data.batch_size * run.opts.optim.grad_accumulation
    values = {
        "epoch": images / run.data.num_train,
        "loss": loss,
        **rates,
        "gradient norm": run.optimizer_step.gradient_norm.item(),
        **progress.speed(step),
        "peak memory": peak_memory(run.world.device),
    }
    progress.report(step, values, best=state.best_score, num_bad=num_bad)
    trackers.scalars(step, values)
