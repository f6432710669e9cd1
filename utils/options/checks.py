"""Options that make no sense together, and those that do nothing beside the others."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from utils.loss import uses

from .groups import Options, flat

# Options that do something only where another has this value.
ONLY_WITH = {
    "markdown": ("list_models", True),
    "year": ("dataset", "voc"),
    "download": ("dataset", "voc"),
    "val_fraction": ("dataset", "folder"),
    "split_file": ("dataset", "folder"),
    "step_size": ("lr_policy", "step"),
    "vis_port": ("enable_vis", True),
    "vis_env": ("enable_vis", True),
}

# Options that do nothing beside another one.
NOT_WITH = {
    "pretrained": ("ckpt", "continue_training"),
    "overwrite": ("test_only",),
    "continue_training": ("test_only",),
    "val_fraction": ("split_file",),
    "cache": ("check_data",),
}

# Options of some losses only.
LOSS_OPTIONS = ("focal_gamma", "focal_alpha", "label_smoothing", "class_weights")


def without_effect(options: Options) -> list[str]:
    """A line for each option that was given but does nothing beside the others."""
    now = flat(options)
    defaults = {
        field.name: field.default
        for group in get_type_hints(Options).values()
        for field in dataclasses.fields(group)
    }
    given = {name for name, value in now.items() if value != _plain(defaults[name])}
    used = uses(options.optim.loss_type)
    return [
        *(
            f"--{name} has no effect without --{other}" + ("" if value is True else f" {value}")
            for name, (other, value) in ONLY_WITH.items()
            if name in given and now[other] != value
        ),
        *(
            f"--{name} has no effect with --{other}"
            for name, others in NOT_WITH.items()
            for other in others
            if {name, other} <= given
        ),
        *(["--cache has no effect with --dataset shapes"] if _caches_shapes(options) else []),
        *(
            f"--{name} has no effect with --loss_type {options.optim.loss_type}"
            for name in LOSS_OPTIONS
            if name in given and name not in used
        ),
    ]


def _caches_shapes(options: Options) -> bool:
    return options.data.cache is not None and options.data.dataset == "shapes"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_options(options: Options, *, world_size: int, sync_batchnorm: bool = False) -> None:
    """Raise ValueError for options that make no sense together, or outside their range."""
    check_ranges(options)
    run, model = options.run, options.model
    if model.ckpt is None and model.finetune:
        raise ValueError("--finetune needs --ckpt FILE: there is nothing to start from")
    if model.finetune and (run.test_only or run.continue_training):
        other = "test_only" if run.test_only else "continue_training"
        raise ValueError(f"--finetune gives a new last layer, --{other} needs the old: drop one")
    if run.test_only:
        if model.ckpt is None:
            raise ValueError("--test_only needs --ckpt FILE: there is nothing to test")
        return
    each, rest = divmod(options.data.batch_size, world_size)
    if rest:
        raise ValueError(
            f"--batch_size {options.data.batch_size} can't be shared equally by {world_size} "
            "processes"
        )
    if each < 2 and not sync_batchnorm and not options.optim.freeze_bn:
        raise ValueError(
            "a batch of 1 image per process: the BatchNorm behind ASPP's image pooling needs at "
            f"least 2 values; use --batch_size {2 * world_size} or more, or --freeze_bn"
        )


def check_ranges(options: Options) -> None:
    """Raise ValueError for numbers outside their range."""
    data, optim = options.data, options.optim
    low, high = data.scale_range
    if low > high:
        raise ValueError(f"--scale_range {low} {high}: the smaller scale comes first")
    if data.num_classes is not None and data.num_classes > 255:
        raise ValueError(f"--num_classes {data.num_classes}: at most 255; 255 means ignored")
    if not 0 < data.val_fraction < 1:
        raise ValueError(f"--val_fraction {data.val_fraction}: a share, above 0 and below 1")
    if not 0 < data.cat_max_ratio <= 1:
        raise ValueError(f"--cat_max_ratio {data.cat_max_ratio}: a share, above 0 and at most 1")
    for name, value in (("ema", optim.ema), ("label_smoothing", optim.label_smoothing)):
        if not value < 1:
            raise ValueError(f"--{name} {value}: must be below 1")
    if optim.freeze_backbone_itrs > optim.total_itrs:
        raise ValueError(
            f"--freeze_backbone_itrs {optim.freeze_backbone_itrs} is more than --total_itrs "
            f"{optim.total_itrs}"
        )
