"""The optimizer, with its own learning rate for the backbone."""

from __future__ import annotations

import torch
from torch import nn


def create_optimizer(
    name: str, model: nn.Module, *, lr: float, backbone_lr_mult: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW; the backbone learns at ``backbone_lr_mult * lr``.

    The order of the groups and of the parameters in them is the predecessor's, so that its
    optimizer states fit.
    """
    groups = [
        {"params": list(model.backbone.parameters()), "lr": backbone_lr_mult * lr},
        {"params": list(model.classifier.parameters()), "lr": lr},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    raise ValueError(f"unknown optimizer {name!r}: must be sgd or adamw")
