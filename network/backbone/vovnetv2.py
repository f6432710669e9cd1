"""VoVNetV2 (Lee and Park 2020, arXiv:1911.06667; VoVNet: Lee et al. 2019, arXiv:1904.09730).

DenseNet gives the output of every layer to every later layer, which costs much memory traffic. Here
the outputs of a chain of layers are joined only once, at its end: "one-shot aggregation". V2 adds
the input to the result, and a gate on every channel that is computed from the whole map.

    OSAModule, n layers of width w
    x (Cin,H,W) -+- 3x3 -+- 3x3 -+- ... -+- 3x3 (w,H,W), each with BN, ReLU
    |            |       |       |          |
    |            '-------+-------+- concat -'  (Cin + n*w,H,W)
    |                                 |
    |                           1x1, BN, ReLU (Cout,H,W)
    |                                 |
    |                                (*)-- eSE: mean (Cout,1,1), 1x1, hard sigmoid
    |                                 |
    '-- but in a stage's first: -----(+)--> (Cout,H,W)

"dw" variants have a depthwise 3x3 and a 1x1 instead of a 3x3, and first bring x to width w.

Every stage but the first begins with a 3x3 max pool of stride 2 without padding: sides are halved
and rounded down.

The authors' code and weight files have an eSE in every module. Variants with a "b" have it only in
the last module of a stage; timm publishes weights for these.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import FourStageBackbone, StagePlan, Variant, conv, timm_weights
from .base import __getattr__ as __getattr__  # type checkers: a function a variant


def conv_block(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
) -> nn.Sequential:
    """Convolution (or depthwise and pointwise one), BatchNorm, ReLU; `conv`, `bn`, `relu`."""
    layers = OrderedDict[str, nn.Module]()
    size = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    if depthwise:
        layers["conv_dw"] = conv(in_channels, in_channels, groups=in_channels, **size)
        layers["conv_pw"] = conv(in_channels, out_channels, kernel_size=1)
    else:
        layers["conv"] = conv(in_channels, out_channels, **size)
    layers["bn"] = nn.BatchNorm2d(out_channels)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class ESEModule(nn.Module):
    """Effective squeeze-excitation: a gate on each channel, computed from all channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


@dataclass(frozen=True, kw_only=True)
class VoVNetVariant(Variant):
    """Numbers of one VoVNetV2; tuples of four are for its four stages."""

    num_modules: tuple[int, int, int, int]
    num_layers: int  # of a module
    widths: tuple[int, int, int, int] = (128, 160, 192, 224)  # of a module's layers
    channels: tuple[int, int, int, int] = (256, 512, 768, 1024)  # of a stage's output
    stem_channels: tuple[int, int, int] = (64, 64, 128)
    depthwise: bool = False
    ese_everywhere: bool = True  # else in the last module of a stage only


class OSAModule(nn.Module):
    """One-shot aggregation: a chain of layers; their outputs are joined at its end."""

    def __init__(
        self,
        in_channels: int,
        *,
        index: int,  # of the stage
        dilation: int,
        adds_input: bool,
        ese: bool,
        variant: VoVNetVariant,
    ) -> None:
        super().__init__()
        self.adds_input = adds_input
        width, out_channels = variant.widths[index], variant.channels[index]
        num_layers, depthwise = variant.num_layers, variant.depthwise
        chain_in = in_channels
        self.conv_reduction = None
        if depthwise and in_channels != width:
            self.conv_reduction = conv_block(in_channels, width, kernel_size=1)
            chain_in = width
        self.conv_mid = nn.ModuleList(
            conv_block(
                width if number else chain_in,
                width,
                kernel_size=3,
                dilation=dilation,
                depthwise=depthwise,
            )
            for number in range(num_layers)
        )
        joined = in_channels + num_layers * width
        self.conv_concat = conv_block(joined, out_channels, kernel_size=1)
        self.attn = ESEModule(out_channels) if ese else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        y = x if self.conv_reduction is None else self.conv_reduction(x)
        for layer in self.conv_mid:
            y = layer(y)
            outputs.append(y)
        y = self.attn(self.conv_concat(torch.cat(outputs, dim=1)))
        return x + y if self.adds_input else y


class StagePool(nn.Module):
    """3x3 max pool that halves the map, rounding down, or keeps its size at stride 1.

    At stride 2 it equals `MaxPool2d(3, 2, ceil_mode=True)`: that adds a row and a column where it
    needs them, and elsewhere they have no effect. At stride 1 the window is centered on its pixel,
    so pixel 2i + 1 is pixel i of the strided pool.
    """

    def __init__(self, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.stride = stride
        self.dilation = dilation
        self.padding = (0, 1, 0, 1) if stride == 2 else (dilation,) * 4

    def forward(self, x: Tensor) -> Tensor:
        # max_pool2d itself can't pad one side only, nor by more than half its kernel.
        x = F.pad(x, self.padding, value=-torch.inf)
        return F.max_pool2d(x, 3, self.stride, dilation=self.dilation)


def make_stage(
    in_channels: int, *, index: int, plan: StagePlan, variant: VoVNetVariant
) -> nn.Sequential:
    """`pool`, which does nothing in the first stage, and `blocks`: the modules."""
    num_modules = variant.num_modules[index]
    modules = [
        OSAModule(
            variant.channels[index] if number else in_channels,
            index=index,
            dilation=plan.dilation,
            adds_input=number > 0,
            ese=variant.ese_everywhere or number == num_modules - 1,
            variant=variant,
        )
        for number in range(num_modules)
    ]
    pool = StagePool(stride=plan.stride, dilation=plan.first_dilation) if index else nn.Identity()
    return nn.Sequential(OrderedDict(pool=pool, blocks=nn.Sequential(*modules)))


class VoVNetV2(FourStageBackbone):
    """Stem (stride 4) and four stages, the authors' stages 2 to 5; inner keys are timm's.

    The pools are dilated too. Weights stay exactly valid, except that the mean in eSE is that of a
    denser map.
    """

    renames = (
        *FourStageBackbone.renames,
        # The authors', whose detection models hold the backbone under "backbone.bottom_up.".
        (r"^(backbone\.)?bottom_up\.", ""),
        *((rf"^stem\.stem_{n}/", f"stem.{n - 1}.stem/") for n in (1, 2, 3)),
        *((rf"^stage{n}\.OSA{n}_", f"stage{n - 1}.OSA_") for n in (2, 3, 4, 5)),
        *((rf"\.OSA_{n}\.", f".blocks.{n - 1}.") for n in range(1, 10)),
        (r"\.layers\.", ".conv_mid."),
        (r"\.concat\.", ".conv_concat."),
        (r"\.ese\.", ".attn."),
        (r"\.[^./]+/conv\.", ".conv."),
        (r"\.[^./]+/(pw_)?norm\.", ".bn."),
        (r"\.[^./]+/dw_conv3x3\.", ".conv_dw."),
        (r"\.[^./]+/pw_conv1x1\.", ".conv_pw."),
    )
    authors_license = "CC BY-NC 4.0: not for commercial use"
    classifier_keys = r"(head|classifier)\."

    def __init__(self, variant: VoVNetVariant, *, output_stride: int) -> None:
        depthwise = variant.depthwise
        first, second, third = variant.stem_channels
        stem = nn.Sequential(
            conv_block(3, first, kernel_size=3, stride=2),
            conv_block(first, second, kernel_size=3, depthwise=depthwise),
            conv_block(second, third, kernel_size=3, stride=2, depthwise=depthwise),
        )
        super().__init__(
            {"stem": stem},
            make_stage,
            channels=(third, *variant.channels),
            output_stride=output_stride,
            variant=variant,
        )


NETWORK = VoVNetV2
SLIM: dict[str, Any] = {"widths": (64, 80, 96, 112), "channels": (112, 256, 384, 512)}
DEPTHWISE: dict[str, Any] = {"depthwise": True, "stem_channels": (64, 64, 64)}
MODULES = {19: (1, 1, 1, 1), 39: (1, 1, 2, 2), 57: (1, 1, 4, 3), 99: (1, 3, 9, 3)}  # by depth
HALF = (0.5, 0.5, 0.5)
LAST_ONLY: dict[str, Any] = {"ese_everywhere": False}
# Name, timm's weights and their accuracy, and numbers that differ from the paper's.
ROWS: tuple[tuple[str, str, float, dict[str, Any]], ...] = (
    ("19_slim_dw", "", 0, SLIM | DEPTHWISE),
    ("19_dw", "ese_vovnet19b_dw.ra_in1k", 77.79, DEPTHWISE),
    ("19_slim", "", 0, SLIM),
    ("19", "", 0, {}),
    ("39", "", 0, {}),
    ("57", "", 0, {}),
    ("99", "", 0, {}),
    ("39b", "ese_vovnet39b.ra_in1k", 80.38, LAST_ONLY),
    ("57b", "ese_vovnet57b.ra4_e3600_r256_in1k", 83.30, LAST_ONLY | {"mean": HALF, "std": HALF}),
    ("99b", "", 0, LAST_ONLY),
)
VARIANTS = {
    f"vovnetv2_{name}": VoVNetVariant(
        num_modules=MODULES[int(name[:2])],
        num_layers=3 if name.startswith("19") else 5,
        weights=timm_weights(tag, top1=top1, license="apache-2.0") if tag else None,
        **numbers,
    )
    for name, tag, top1, numbers in ROWS
}
