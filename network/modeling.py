"""The entry points `deeplabv3_<backbone>` and `deeplabv3plus_<backbone>`, made of two tables.

The file of each family of backbones gets its functions here too: `backbone.resnet.resnet50` and so
on. So what VainF/DeepLabV3Plus-Pytorch has in these files can be imported from them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from . import backbone, create
from ._deeplab import DeepLabHead, DeepLabHeadV3Plus, DeepLabV3
from .factory import MODELS
from .utils import IntermediateLayerGetter

# No function but the entry points is a name of this file, so that listing them finds just those.
__all__ = ["DeepLabHead", "DeepLabHeadV3Plus", "DeepLabV3", "IntermediateLayerGetter", *MODELS]


def _entry_point(name: str) -> Callable[..., DeepLabV3]:
    """The function `name(num_classes, output_stride, pretrained_backbone)`."""
    architecture, backbone_name = MODELS[name]
    strides = backbone.BACKBONES[backbone_name].network.output_strides
    default = 8 if 8 in strides else strides[0]  # 8 as in the predecessor

    def entry_point(
        num_classes: int = 21,
        output_stride: int = default,
        pretrained_backbone: bool | str | Path | None = False,
    ) -> DeepLabV3:
        return create.create_model(
            name,
            num_classes=num_classes,
            output_stride=output_stride,
            pretrained=pretrained_backbone,
        )

    title = {"deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3+"}[architecture]
    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = (
        f"{title} with a {backbone_name} backbone.\n\n"
        "`pretrained_backbone` is False, True for ImageNet weights, or a file."
    )
    return entry_point


def _backbone_function(family: ModuleType, name: str) -> Callable[..., backbone.Backbone]:
    """The function `name(pretrained, output_stride=...)`; by default nothing is dilated."""
    undilated = backbone.BACKBONES[name].network.output_strides[-1]

    def function(
        pretrained: bool | str | Path | None = False, *, output_stride: int = undilated
    ) -> backbone.Backbone:
        built = backbone.create_backbone(name, output_stride=output_stride)
        if pretrained:
            model = create.create_model(f"deeplabv3_{name}", pretrained=pretrained)
            built.load_state_dict(model.backbone.state_dict())
        return built

    function.__name__ = function.__qualname__ = name
    function.__module__ = family.__name__
    function.__doc__ = (
        f"The backbone {name}; `pretrained` is False, True for ImageNet weights, or a file."
    )
    return function


def _add_functions(family: ModuleType) -> None:
    """Give the file of a family a function of each variant, and `model_urls`, as torchvision's."""
    urls: dict[str, str] = {}
    for name, variant in family.VARIANTS.items():
        function = _backbone_function(family, name)
        for key in filter(None, (name, variant.predecessor_name)):
            setattr(family, key, function)
            if variant.weights is not None:
                urls[key] = variant.weights.url
    setattr(family, "model_urls", urls)  # noqa: B010


globals().update({name: _entry_point(name) for name in MODELS})
for _family in backbone.FAMILIES:
    _add_functions(_family)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., DeepLabV3]: ...
