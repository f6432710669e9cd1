"""The contract of a backbone, and what several families share.

A backbone is an `nn.Sequential` of named stages: its forward calls its children in order. It states
everything else that a caller must know as data, so no code asks for the family.
"""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureInfo(NamedTuple):
    """Which child gives a feature map, and the shape of that map."""

    name: str  # of the child
    channels: int
    reduction: int  # image pixels per feature pixel, along one side


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where published weights are, their license, and their accuracy.

    `source` is a hub repository that holds `file`. Where `file` is empty, it is a URL whose file
    name ends in digits of its SHA-256.
    """

    source: str
    file: str
    license: str
    top1: float | None = None  # percent on ImageNet-1k, as published

    @property
    def url(self) -> str:
        hub = "https://huggingface.co"
        return f"{hub}/{self.source}/resolve/main/{self.file}" if self.file else self.source


def timm_weights(tag: str, *, license: str, top1: float | None = None) -> Weights:
    """Weights of timm's hub repositories: `timm_weights("hrnet_w48.ms_in1k", license="mit")`."""
    return Weights(source=f"timm/{tag}", file="model.safetensors", license=license, top1=top1)


def torchvision_weights(file: str, *, top1: float) -> Weights:
    """A file of torchvision: `torchvision_weights("resnet18-f37072fd", ...)`.

    Ours are of its first set, IMAGENET1K_V1, which the literature uses.
    """
    source = f"https://download.pytorch.org/models/{file}.pth"
    return Weights(source=source, file="", license="bsd-3-clause", top1=top1)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One line of the table of a family, which adds its own numbers.

    The published weights expect `mean` and `std` (RGB, of values in 0..1).
    """

    weights: Weights | None = None  # of ImageNet, if somebody has published any
    predecessor_name: str = ""  # in VainF/DeepLabV3Plus-Pytorch, if it has another name there
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class Backbone(nn.Sequential):
    """Named stages, run in order; `low_level` and `out` say which outputs the heads take.

    An auxiliary head takes `aux`: the stage before the last, if that is a child.
    """

    output_strides: ClassVar[tuple[int, ...]] = (8, 16, 32)  # that it can be built with
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()  # of weight files: (regex, replacement)
    authors_license: ClassVar[str] = ""  # of the authors' weight files, if it restricts their use
    classifier_keys: ClassVar[str] = r"fc\."  # regex: tensors of weight files that are not used
    # For files that almost fit: a regex that all differences match, and what such a file is.
    misfit: ClassVar[tuple[str, str] | None] = None
    # Build arguments with which it computes the same as in VainF/DeepLabV3Plus-Pytorch.
    predecessor_args: ClassVar[Mapping[str, object]] = MappingProxyType({})
    predecessor_names: ClassVar[str] = r"(?!)"  # regex: what only its files call a tensor
    # Names in weight files (regex) that tell with which build arguments those were trained.
    told_by: ClassVar[tuple[tuple[str, Mapping[str, object]], ...]] = ()

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        low_level: FeatureInfo,
        out: FeatureInfo,
        aux: FeatureInfo | None = None,
        variant: Variant,
    ) -> None:
        super().__init__(OrderedDict(stages))
        self.low_level = low_level
        self.out = out
        self.aux = aux
        self.mean = variant.mean
        self.std = variant.std
        init_weights(self)

    @staticmethod
    def configure(stages: nn.Module) -> None:
        """Set what the build arguments choose, in a network whose children are the stages.

        A family with build arguments has them as keywords here. None changes keys or shapes.
        """

    @classmethod
    def complete_args(cls, name: str, args: Mapping[str, object]) -> dict[str, object]:
        """`args` and the defaults of the others; one that `name` does not have is a ValueError."""
        parameters = list(inspect.signature(cls.configure).parameters.values())[1:]
        known: dict[str, object] = {parameter.name: parameter.default for parameter in parameters}
        for key in args:
            if key not in known:
                allowed = f"it takes {', '.join(known)}" if known else "it takes none"
                raise ValueError(f"{name} has no build argument {key!r}; {allowed}")
        return {**known, **args}

    @classmethod
    def own_name(cls, name: str) -> str:
        """The name that the family uses for a tensor of a weight file."""
        for pattern, replacement in cls.renames:
            name = re.sub(pattern, replacement, name)
        return name


class StagePlan(NamedTuple):
    """Stride and dilations of one stage."""

    stride: int  # of the layer that carries the stage's stride
    first_dilation: int  # of that layer
    dilation: int  # of every layer after it


def plan_stages(strides: Sequence[int], *, stem_stride: int, output_stride: int) -> list[StagePlan]:
    """Replace the strides beyond `output_stride` by dilation, so that weights stay exactly valid.

    A layer that loses its stride keeps the previous dilation: its input is as dense as before. The
    layers after it see a map that is `stride` times denser, so their taps move apart as much.
    """
    plans = []
    reduction, dilation = stem_stride, 1
    for stride in strides:
        if reduction * stride > output_stride:
            plans.append(StagePlan(1, dilation, dilation * stride))
            dilation *= stride
        else:
            plans.append(StagePlan(stride, dilation, dilation))
            reduction *= stride
    return plans


class FourStageBackbone(Backbone):
    """A stem of stride 4 and four stages; each stage but the first halves the map.

    `channels` are those of the stem and of each stage. The stages are children `<prefix>1` to
    `<prefix>4`; `make_stage(in_channels, index=, plan=, variant=)` builds one, by its index from 0.
    """

    renames = tuple((rf"^stages\.{n}\.", f"stage{n + 1}.") for n in range(4))  # timm's

    def __init__(
        self,
        stem: Mapping[str, nn.Module],
        make_stage: Callable[..., nn.Module],
        *,
        channels: Sequence[int],
        output_stride: int,
        variant: Variant,
        prefix: str = "stage",
    ) -> None:
        stages = dict(stem)
        plans = plan_stages((1, 2, 2, 2), stem_stride=4, output_stride=output_stride)
        for index, plan in enumerate(plans):
            stages[f"{prefix}{index + 1}"] = make_stage(
                channels[index], index=index, plan=plan, variant=variant
            )
        super().__init__(
            stages,
            low_level=FeatureInfo(f"{prefix}1", channels[1], 4),
            out=FeatureInfo(f"{prefix}4", channels[4], output_stride),
            aux=FeatureInfo(f"{prefix}3", channels[3], min(16, output_stride)),
            variant=variant,
        )


def conv(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """Convolution without bias; its padding keeps the size at stride 1 (odd kernels)."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size - 1) // 2,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def conv_bn(layer: nn.Conv2d, activation: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """Convolution, BatchNorm and, unless it is None, an activation: children 0, 1 and 2."""
    layers = [layer, nn.BatchNorm2d(layer.out_channels)]
    return nn.Sequential(*layers, *([] if activation is None else [activation(inplace=True)]))


def init_weights(module: nn.Module) -> None:
    """He initialization (fan out) of convolutions, 1 and 0 for BatchNorm."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def __getattr__(name: str) -> Any:
    """In a file that imports it, tells type checkers of names that network/modeling.py adds."""
    raise AttributeError(f"there is no {name!r}")
