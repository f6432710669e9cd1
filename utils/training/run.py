"""A run: everything that training, validation and the reports need, and how it is saved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import network
from network.pretrained import FORMAT, Checkpoint, RngState
from utils import options
from utils.loss import Criterion
from utils.runtime import checkpoint
from utils.runtime.console import one_line, say
from utils.runtime.distributed import World
from utils.runtime.precision import autocast
from utils.training.data import RunData
from utils.training.model import backbone_bn_momentum
from utils.training.start import StartPoint
from utils.training.step import OptimizerStep, TrainingState


@dataclass(frozen=True)
class Run:
    """What `prepare` checked and built; nothing has been written yet."""

    opts: options.Options
    command: str  # as the user typed it
    world: World
    start: StartPoint
    data: RunData
    model: network.DeepLabV3
    criterion: Criterion
    optimizer_step: OptimizerStep

    @property
    def files(self) -> checkpoint.RunFiles:
        return self.start.files

    def autocast(self) -> torch.autocast:
        """The arithmetic of --precision."""
        return autocast(self.world.device, self.opts.optim.precision)

    def network_input(self, images: Tensor) -> Tensor:
        """uint8 (N,3,H,W) -> normalized, on the device, channels last: faster on CPU and GPU."""
        images = self.model.normalize(images.to(self.world.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last)

    def checkpoint(self, state: TrainingState, rng: list[RngState]) -> Checkpoint:
        """The checkpoint of this moment: all that `predict.py` and --continue_training need."""
        model, weights = self.model, self.criterion.weight
        return {
            "format": FORMAT,
            "model_name": model.name,
            "build_args": model.build_args,
            "class_names": self.data.class_names,
            "palette": torch.from_numpy(self.data.val_set.facts.palette.copy()),
            "mean": list(model.mean),
            "std": list(model.std),
            "model_state": model.state_dict(),
            **self.optimizer_step.entries(),
            **state.entries(),
            "bn_momentum": backbone_bn_momentum(self.opts.model, start=self.start),
            "class_weights": None if weights is None else weights.tolist(),
            "rng": rng,
            "num_threads": torch.get_num_threads(),
            "num_train": self.data.num_train,
            "options": options.flat(self.opts),
            "command": self.command,
        }


def save(
    run: Run, state: TrainingState, *, is_last: bool, is_best: bool = False, replaces: bool = False
) -> bool:
    """Write the latest checkpoint, and before it the best one if this is the best.

    All processes must call it; the main one is told whether it worked. If the disk is full, this
    checkpoint is lost and training goes on, unless it is the last one.
    """
    rng_states = run.world.gather(checkpoint.rng_state())
    if not run.world.is_main:
        return False
    content = run.checkpoint(state, rng_states)
    if not checkpoint.is_finite(content):
        text = f"the weights are NaN or infinite at step {state.step}"
        if is_last:
            raise FloatingPointError(f"{text}: not saved; the earlier checkpoints stay")
        say(f"not saved: {text}")
        return False
    try:
        if is_best:
            checkpoint.save(content, run.files.best)
        keep = run.opts.run.keep_checkpoints
        checkpoint.save_latest(content, run.files, keep=keep, replaces=replaces)
    except OSError as error:
        if is_last:
            raise
        text = f"not saved: {error}; the earlier checkpoints are whole, and training goes on"
        say(one_line(text))
        return False
    return True


def delete_what_is_replaced(run: Run) -> None:
    """Delete the earlier run that --overwrite replaces, and what killed saves left."""
    if run.opts.run.overwrite:
        run.files.delete_run()
    run.files.delete_leftovers()
    if run.start.ckpt is not None:
        run.files.make_latest(run.start.ckpt)
