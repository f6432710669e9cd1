"""Builds a model by name, with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ._deeplab import DeepLabV3
from .factory import build_model
from .pretrained import check_pretrained, load_pretrained


def create_model(
    name: str,
    *,
    num_classes: int = 21,
    output_stride: int | None = None,
    pretrained: str | Path | bool | None = "none",
    separable_conv: bool = False,
    aspp_rates: Sequence[int] | None = None,
    backbone_args: Mapping[str, object] | None = None,
    aux_head: bool = False,
) -> DeepLabV3:
    """Build a model by name; see `list_models`.

    `output_stride` is 8, 16 (the default) or 32, and 4 for HRNet. `pretrained` is "none",
    "imagenet" (or True) for the published weights of the backbone, which are fetched if they are
    not in the cache, or a file; a printed line says what was used of it. `aspp_rates` default to
    12, 24, 36 at output strides 4 and 8, half of that at 16, a quarter at 32. `backbone_args` are
    arguments that only one family has: `legacy_padding` of MobileNetV2, `fuse_mode` and
    `stem_relu` of HRNet. `aux_head` adds `model.aux_classifier` for training; see
    `model.low_res_outputs`.
    """
    pretrained = check_pretrained(name, pretrained)
    model = build_model(
        name,
        num_classes=num_classes,
        output_stride=output_stride,
        separable_conv=separable_conv,
        aspp_rates=aspp_rates,
        backbone_args=backbone_args,
        aux_head=aux_head,
    )
    for line in load_pretrained(model, pretrained):
        print(line)
    return model
