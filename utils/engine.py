"""What a training step changes beside the gradients: which layers learn, and the update itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils import checkpoint, distributed, options
from utils.bad_steps import BadSteps
from utils.ema import Ema, NoEma, create_ema
from utils.optimizer import create_optimizer
from utils.scheduler import create_scheduler
from utils.utils import fix_bn

T = TypeVar("T")


@dataclass
class Standing:
    """How far a run is, and how good it was."""

    step: int = 0
    best_score: float = 0.0
    best: int = 0  # the step of the best score
    num_worse: int = 0  # validations since then

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Standing:
        """That of a checkpoint; of the start, if it is empty."""
        return cls(
            step=saved.get("cur_itrs", 0),
            best_score=float(saved.get("best_score", 0)),
            best=saved.get("best_itrs", 0),
            num_worse=saved.get("num_worse", 0),
        )

    def rank(self, step: int, score: float | None) -> bool:
        """Go on to ``step``, where a validation gave ``score``, if there was one; is it the best?

        A NaN never is.
        """
        self.step = step
        if score is None:
            return False
        if math.isnan(score) or score <= self.best_score:
            self.num_worse += 1
            return False
        self.best_score, self.best, self.num_worse = score, step, 0
        return True


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


class TrainingNetwork(nn.Module):
    """The model as the loss wants it: low-resolution logits by name, no upsampling."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        return self.model.low_res_outputs(images)


def training_network(
    model: nn.Module, step: int, *, optim: options.OptimOptions, world: distributed.World
) -> nn.Module:
    """``model`` for the steps from ``step`` on: in training mode, frozen, compiled, shared."""
    model.backbone.requires_grad_(step >= optim.freeze_backbone_itrs)
    train_mode(model, step, optim=optim)
    network = TrainingNetwork(model)
    if optim.compile:
        network = torch.compile(network)
    return world.wrap(network)


def train_mode(model: nn.Module, step: int, *, optim: options.OptimOptions) -> None:
    """Training mode, but for what --freeze_bn and --freeze_backbone_itrs keep as it is."""
    torch.backends.cudnn.benchmark = True  # all crops have one size
    model.train()
    if step < optim.freeze_backbone_itrs:
        model.backbone.eval()
    if optim.freeze_bn:
        fix_bn(model)


@dataclass(frozen=True)
class Update:
    """One step of the optimizer, with all that moves along with it."""

    optimizer: torch.optim.Optimizer
    scheduler: Any
    scaler: torch.amp.GradScaler
    ema: Ema | NoEma
    guard: BadSteps

    def __call__(self, step: int, loss: Tensor) -> None:
        """Change the weights by the gradients there are, unless ``loss`` is no number."""
        self.guard.step(step, loss)
        self.scheduler.step()
        self.ema.update()

    @property
    def lr(self) -> float:
        """The head's learning rate in the coming step."""
        return self.optimizer.param_groups[-1]["lr"]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "optimizer_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            **self.ema.state(),
        }


def create_update(
    opts: options.Options,
    model: nn.Module,
    *,
    world: distributed.World,
    saved: Mapping[str, Any],
    ckpt: str | None,
) -> tuple[Update, list[str]]:
    """What makes the steps, going on from ``saved`` with --continue_training; and what to say."""
    optim, notes = opts.optim, []
    optimizer = create_optimizer(
        optim.optimizer,
        model,
        lr=optim.lr,
        backbone_lr_mult=optim.backbone_lr_mult,
        weight_decay=optim.weight_decay,
        no_decay_norm_bias=optim.no_decay_norm_bias,
        fused=world.device.type == "cuda",
    )
    scheduler = create_scheduler(
        optim.lr_policy,
        optimizer,
        total_itrs=optim.total_itrs,
        step_size=optim.step_size,
        warmup_itrs=optim.warmup_itrs,
    )
    scaler = torch.amp.GradScaler(world.device.type, enabled=optim.precision == "fp16")
    ema = create_ema(model, optim.ema)
    if opts.run.continue_training and not opts.run.test_only:
        notes = checkpoint.resume(
            saved,
            str(ckpt),
            optimizer=optimizer,
            scheduler=scheduler,
            changed_options=options.changes_on_resume(saved.get("options", {}), options.flat(opts)),
            rank=world.rank,
        )
        if saved["cur_itrs"] > optim.total_itrs:
            raise ValueError(
                f"{ckpt} is at step {saved['cur_itrs']}, past --total_itrs {optim.total_itrs}"
            )
        if saved.get("scaler_state"):
            scaler.load_state_dict(saved["scaler_state"])
        notes += ema.load(saved)
    guard = BadSteps(
        model,
        optimizer,
        max_bad_steps=optim.max_bad_steps,
        world=world,
        scaler=scaler,
        max_norm=optim.clip_grad_norm or 0.0,
    )
    return Update(optimizer, scheduler, scaler, ema, guard), notes
