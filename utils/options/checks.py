"""Options beside one another: those that make no sense, those without effect, those changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from datasets import DATASETS
from utils.loss import LOSSES, parse_loss
from utils.options.programs import Options, fields, flat


def conditions() -> dict[str, str]:
    """What an option has no effect without, as in "enable_vis" or "dataset voc or folder".

    It stands on the option, or on the data sets and losses that use the option.
    """
    found = {}
    for name, field in fields().items():
        sets = [key for key, dataset in DATASETS.items() if name in dataset.options]
        losses = [key for key in LOSSES if name in LOSSES[key].options]
        if field.metadata["only_with"]:
            found[name] = field.metadata["only_with"]
        elif sets or losses:
            found[name] = ("dataset " if sets else "loss_type ") + " or ".join(sets or losses)
    return found


def without_effect(options: Options) -> list[str]:
    """A line for each option that was given but does nothing beside the others."""
    now, known, needed = flat(options), fields(), conditions()
    defaults = flat(Options(**{name: group() for name, group in get_type_hints(Options).items()}))
    given = [name for name in now if now[name] != defaults[name]]

    def holds(condition: str) -> bool:
        name, _, values = condition.partition(" ")
        if not values:
            return name in given
        chosen = parse_loss(now[name]) if name == "loss_type" else [now[name]]
        return not set(values.split(" or ")).isdisjoint(chosen)

    lines = []
    for name in given:
        if name in needed and not holds(needed[name]):
            lines.append(f"--{name} has no effect without --{needed[name]}")
        others = filter(holds, known[name].metadata["not_with"])
        lines += [f"--{name} has no effect with --{other}" for other in others]
    return lines


def changes_on_resume(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each option that changes what the resumed run computes; both as from `flat`."""
    return sorted(
        f"--{name} was {_shown(then[name])}, is now {_shown(now[name])}"
        for name, field in fields().items()
        if not field.metadata["free_on_resume"]
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
    if optim.freeze_backbone_itrs > optim.total_itrs:
        raise ValueError(
            f"--freeze_backbone_itrs {optim.freeze_backbone_itrs} is more than --total_itrs "
            f"{optim.total_itrs}"
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
