"""All backbones by name: the one place where a family is registered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import hgnet, hgnetv2, hrnetv2, mobilenetv2, res2net, resnet, vovnetv2, xception
from .base import Backbone, FeatureInfo, Variant, Weights

# A family is a module with its class, NETWORK, and its table, VARIANTS.
FAMILIES = (
    resnet,
    mobilenetv2,
    hrnetv2,
    res2net,
    vovnetv2,
    hgnet,
    hgnetv2,
    xception,
)


class Entry(NamedTuple):
    """A network class and the numbers to build it with."""

    network: type[Backbone]
    variant: Variant


BACKBONES: dict[str, Entry] = {
    name: Entry(family.NETWORK, variant)
    for family in FAMILIES
    for name, variant in family.VARIANTS.items()
}


def resolve_output_stride(name: str, output_stride: int | None) -> int:
    """The output stride to build with; None asks for 16, or the only one that the backbone has.

    An impossible stride is a ValueError; with a backbone that has only one, just a warning.
    """
    strides = BACKBONES[name].network.output_strides
    if output_stride is None:
        return 16 if 16 in strides else strides[0]
    if output_stride in strides:
        return output_stride
    if len(strides) == 1:
        warnings.warn(
            f"{name} always has output stride {strides[0]}: {output_stride} has no effect",
            stacklevel=2,
        )
        return strides[0]
    allowed = ", ".join(map(str, strides))
    raise ValueError(f"output stride {output_stride} is not possible for {name}; use {allowed}")


def create_backbone(
    name: str,
    *,
    output_stride: int | None = None,
    backbone_args: Mapping[str, object] | None = None,
) -> Backbone:
    """Build a backbone with random weights.

    `backbone_args` are build arguments of the family alone (`legacy_padding`, `fuse_mode`). An
    unknown argument or name is a ValueError.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; there are {', '.join(BACKBONES)}")
    network, variant = BACKBONES[name]
    args = network.complete_args(name, backbone_args or {})
    build: Callable[..., Backbone] = network  # each family has a variant class of its own
    backbone = build(variant, output_stride=resolve_output_stride(name, output_stride))
    configure: Callable[..., None] = network.configure  # and arguments
    configure(backbone, **args)
    return backbone
