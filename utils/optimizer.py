"""The optimizer, with its own learning rate for the backbone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import network

# The optimizers of --optimizer.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adamw": torch.optim.AdamW,
}


def create_optimizer(
    name: str,
    model: network.DeepLabV3,
    *,
    lr: float,
    backbone_lr_mult: float,
    weight_decay: float,
    no_decay_norm_bias: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Build the optimizer `name` of OPTIMIZERS; the last group's lr is the head's.

    The backbone's parameters come first, then all others: the predecessor's order, so that its
    optimizer states fit. With `no_decay_norm_bias` each of the two is split: weights, then biases
    and the scales and shifts of normalization layers (what has one dimension at most), which get no
    weight decay. `fused` is one kernel for the whole update. `OptimizerStep` can skip that on the
    device.
    """
    backbone = list(model.backbone.parameters())
    own = set(map(id, backbone))
    head = [parameter for parameter in model.parameters() if id(parameter) not in own]
    groups: list[dict[str, Any]] = []
    for parameters, group_lr in ((backbone, backbone_lr_mult * lr), (head, lr)):
        weights = [p for p in parameters if p.ndim > 1 or not no_decay_norm_bias]
        groups.append({"params": weights, "lr": group_lr})
        if no_decay_norm_bias:
            others = [p for p in parameters if p.ndim <= 1]
            groups.append({"params": others, "lr": group_lr, "weight_decay": 0.0})
    kernel = fused or None  # None: torch chooses among the others
    return OPTIMIZERS[name](groups, lr=lr, weight_decay=weight_decay, fused=kernel)
