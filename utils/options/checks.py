"""Options beside one another: those that make no sense, those without effect, those changed."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

from datasets import DATASETS
from utils.loss import LOSSES, parse_loss
from utils.options.programs import Options, PredictOptions, fields


def condition(option: dataclasses.Field[Any]) -> str | None:
    """What the option has no effect without, as in "enable_vis" or "dataset voc or folder".

    It stands on the option, or on the data sets and losses that use the option.
    """
    sets = [name for name, dataset in DATASETS.items() if option.name in dataset.options]
    losses = [name for name, loss in LOSSES.items() if option.name in loss.options]
    if sets or losses:
        return ("dataset " if sets else "loss_type ") + " or ".join(sets or losses)
    return option.metadata["only_with"]


def without_effect(options: Options | PredictOptions) -> list[str]:
    """A line for each option that was given but does nothing beside the others."""
    groups = [options] if isinstance(options, PredictOptions) else vars(options).values()
    now = {name: value for group in groups for name, value in vars(group).items()}
    known = {field.name: field for group in groups for field in dataclasses.fields(group)}
    given = {name: field for name, field in known.items() if now[name] != field.default}

    def holds(condition: str) -> bool:
        name, _, values = condition.partition(" ")
        if not values:
            return name in given
        chosen = parse_loss(now[name]) if name == "loss_type" else [now[name]]
        return not set(values.split(" or ")).isdisjoint(chosen)

    lines = []
    for name, field in given.items():
        needed = condition(field)
        if needed and not holds(needed):
            lines.append(f"--{name} has no effect without --{needed}")
        others = filter(holds, field.metadata["not_with"])
        lines += [f"--{name} has no effect with --{other}" for other in others]
    return lines


def changes_on_resume(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each option that changes what the resumed run computes; both as from `flat`."""
    return sorted(
        f"--{name} was {_shown(then[name])}, is now {_shown(now[name])}"
        for name, field in fields().items()
        if not field.metadata["free_on_resume"]
        if not (field.metadata["kept_on_resume"] and now.get(name) == field.default)
        if name in then and name in now and then[name] != now[name]
    )


def _shown(value: Any) -> str:
    """As the user would say it."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_options(options: Options, *, world_size: int, sync_batchnorm: bool = False) -> None:
    """Raise ValueError for options that make no sense together."""
    run, model, optim = options.run, options.model, options.optim
    if options.vis.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs the package tensorboard; pip install tensorboard")
    if model.finetune and model.ckpt is None:
        raise ValueError("--finetune needs --ckpt FILE: there is nothing to start from")
    if run.test_only and model.ckpt is None:
        raise ValueError("--test_only needs --ckpt FILE: there is nothing to test")
    if model.finetune and (run.test_only or run.continue_training):
        other = "test_only" if run.test_only else "continue_training"
        raise ValueError(
            f"--finetune replaces the last layer, but --{other} needs it; leave out one of them"
        )
    if run.test_only:
        return
    for name in ("freeze_backbone_itrs", "warmup_itrs"):
        steps = vars(optim)[name]
        if steps > optim.total_itrs:
            raise ValueError(f"--{name} {steps} is more than --total_itrs {optim.total_itrs}")
    if optim.compile and sync_batchnorm and not optim.freeze_bn:
        # One graph becomes dozens, and each is compiled again and again (pytorch #161302).
        raise ValueError(
            "--compile with several GPUs: BatchNorm that counts all GPUs' images breaks the "
            "compiled network at every layer, which makes it slower; leave out --compile, or give "
            "--freeze_bn"
        )
    batch_size = options.data.batch_size
    each, rest = divmod(batch_size, world_size)
    if rest:
        raise ValueError(
            f"--batch_size {batch_size} can't be shared equally by {world_size} processes"
        )
    if each < 2 and not sync_batchnorm and not optim.freeze_bn:
        raise ValueError(
            "a batch has 1 image per process, but BatchNorm after ASPP's image pooling needs 2; "
            f"use --batch_size {2 * world_size} or more, or --freeze_bn"
        )
