"""Builds a model with random weights from its name and plain values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from . import metadata
from ._deeplab import (
    DeepLabHead,
    DeepLabHeadV3Plus,
    DeepLabV3,
    FCNHead,
    convert_to_separable_conv,
)
from .backbone import BACKBONES, Backbone, FeatureInfo, create_backbone
from .utils import IntermediateLayerGetter

ARCHITECTURES = {"deeplabv3": DeepLabHead, "deeplabv3plus": DeepLabHeadV3Plus}

# Output strides 8, 16 and 32 get the same field of view in image pixels; 4 (HRNet) gets the
# rates of VainF/DeepLabV3Plus-Pytorch.
ASPP_RATES = {4: (12, 24, 36), 8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}


class ModelParts(NamedTuple):
    """The two parts of a model, each a key of its table."""

    architecture: str
    backbone: str


MODELS: dict[str, ModelParts] = {
    f"{architecture}_{backbone}": ModelParts(architecture, backbone)
    for architecture in ARCHITECTURES
    for backbone in BACKBONES
}


def model_parts(name: str) -> ModelParts:
    """The parts of a model; an unknown name is a ValueError that states the nearest one."""
    if name in MODELS:
        return MODELS[name]
    nearest = difflib.get_close_matches(str(name), MODELS, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"unknown model {name!r}{hint} All models: python main.py --list_models")


def check_aspp_rates(aspp_rates: Sequence[int]) -> tuple[int, ...]:
    """The rates as a tuple; other than three positive whole numbers are a ValueError."""
    rates = tuple(aspp_rates)
    if len(rates) != 3 or not all(type(rate) is int and rate > 0 for rate in rates):
        raise ValueError(f"ASPP rates are {list(rates)}; give three positive whole numbers")
    return rates


def wanted_features(name: str, backbone: Backbone, *, aux_head: bool) -> dict[str, FeatureInfo]:
    """The features that the heads take; a ValueError where an auxiliary head has none to take."""
    features = {"low_level": backbone.low_level, "out": backbone.out}
    if not aux_head:
        return features
    if backbone.aux is None:
        raise ValueError(f"{name} has no stage for an auxiliary head to start from; leave it out")
    return {**features, "aux": backbone.aux}


def build_model(
    name: str,
    *,
    num_classes: int = 21,
    output_stride: int | None = None,
    separable_conv: bool = False,
    aspp_rates: Sequence[int] | None = None,
    backbone_args: Mapping[str, object] | None = None,
    aux_head: bool = False,
) -> DeepLabV3:
    """Build a model with random weights; arguments as in `create_model`."""
    architecture, backbone_name = model_parts(name)
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a model needs at least 1")
    backbone = create_backbone(
        backbone_name, output_stride=output_stride, backbone_args=backbone_args
    )
    stride = backbone.out.reduction
    rates = ASPP_RATES[stride] if aspp_rates is None else check_aspp_rates(aspp_rates)
    features = wanted_features(backbone_name, backbone, aux_head=aux_head)
    head: nn.Module = ARCHITECTURES[architecture](
        backbone.out.channels,
        backbone.low_level.channels,
        num_classes=num_classes,
        atrous_rates=rates,
    )
    if separable_conv:
        head = convert_to_separable_conv(head)
    aux_classifier = FCNHead(features["aux"].channels, num_classes) if aux_head else None
    getter = IntermediateLayerGetter(backbone, {f.name: key for key, f in features.items()})
    model = DeepLabV3(
        getter,
        head,
        aux_classifier,
        name=name,
        build_args={
            "num_classes": num_classes,
            "output_stride": stride,
            "separable_conv": bool(separable_conv),
            "aspp_rates": None if aspp_rates is None else list(rates),
            "backbone_args": dict(backbone_args or {}),
            "aux_head": bool(aux_head),
        },
        mean=backbone.mean,
        std=backbone.std,
    )
    metadata.register(model)
    return model
