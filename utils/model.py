"""The network of a run, and the weights it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

import network
from utils import distributed, options


def build_model(
    asked: options.ModelOptions,
    num_classes: int,
    *,
    stride: int,
    saved: Mapping[str, Any],
    ckpt: str | None,
) -> tuple[nn.Module, list[str]]:
    """The network asked for, with the weights of ``saved``, if any; and what was loaded."""
    if saved.get("model_name", asked.model) != asked.model:
        raise ValueError(f"{ckpt} holds {saved['model_name']}, not --model {asked.model}")
    if not saved:
        network.pretrained.check_pretrained(asked.model, asked.pretrained)
    state = network.pretrained.state_of(saved, source=str(ckpt)) if saved else {}
    # Ours say how they were built; the predecessor's files are recognised.
    built = saved.get("build_args") or (
        network.pretrained.predecessor_build_args(asked.model, state) if saved else {}
    )
    rates = asked.aspp_rates or built.get("aspp_rates")
    model = network.create_model(
        asked.model,
        num_classes=num_classes,
        output_stride=stride,
        separable_conv=asked.separable_conv or built.get("separable_conv", False),
        aspp_rates=rates,
        backbone_args=built.get("backbone_args"),
    )
    if not saved:
        return model, []
    network.pretrained.load_model_state(model, state, source=str(ckpt), finetune=asked.finetune)
    model.mean = tuple(saved.get("mean", model.mean))
    model.std = tuple(saved.get("std", model.std))
    loaded = "all weights but the final classifier's" if asked.finetune else "weights"
    stated = f", ASPP rates {' '.join(map(str, rates))}" if rates else ""
    return model, [f"{loaded} from {ckpt}{stated}"]


def load_pretrained(model: nn.Module, asked: str | None, *, world: distributed.World) -> list[str]:
    """Give the backbone the weights of --pretrained; returns what to say about them."""
    default = network.default_weights(model.name)
    if (asked or default) == "none":
        if default == "none":
            return ["random weights: none to fetch by name; a file is given by --pretrained FILE"]
        return ["random weights: for ImageNet's, give --pretrained imagenet"]
    if not world.is_main:
        world.wait()  # until the main process has fetched them
    notes = network.pretrained.load_pretrained(model, asked or default)
    if world.is_main:
        world.wait()
    return notes


def backbone_bn_momentum(
    asked: options.ModelOptions, saved: Mapping[str, Any], *, continues: bool
) -> float:
    """0.01 suits statistics that are good already; from scratch they would lag far behind."""
    if asked.bn_momentum is not None:
        return asked.bn_momentum
    if continues:
        return saved.get("bn_momentum", 0.01)
    starts_well = saved or (asked.pretrained or network.default_weights(asked.model)) != "none"
    return 0.01 if starts_well else 0.1
