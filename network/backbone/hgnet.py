"""PP-HGNet (PaddleClas, 2022; no paper): VoVNet's idea with a learned downsampling.

As in VoVNetV2, the outputs of a chain of plain 3x3 convolutions are joined once, at the end of the
chain, and a gate on every channel is computed from the whole map. A strided depthwise convolution
takes the place of VoVNet's pool. It runs fast on GPUs, which are fast at plain convolutions.

    HGBlock with n layers of M channels
    x (Cin,H,W) -+- 3x3 -+- 3x3 -+- ... -+- 3x3 (M,H,W), each with BN, ReLU
    |            |       |       |          |
    |            '-------+-------+- concat -' (Cin + n*M,H,W)
    |                                 |
    |                           1x1, BN, ReLU (Cout,H,W)
    |                                 |
    |                                (*)-- eSE: mean (Cout,1,1), 1x1, sigmoid
    |                                 |
    '-- but in a stage's first: -----(+)--> (Cout,H,W)

    stages 2 to 4 begin with a depthwise 3x3, stride 2, BN, without ReLU

The gate is a mean over the map, and a dilated map has other pixels: as with VoVNetV2, weights stay
exactly valid but for that.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .base import FourStageBackbone, timm_weights
from .base import __getattr__ as __getattr__  # type checkers: a function a variant
from .hgnetv2 import ConvBNAct, HGNetVariant, make_stage


class HGNet(FourStageBackbone):
    """Stem (stride 4) and four stages; inner names are timm's."""

    renames = (
        *FourStageBackbone.renames,
        # Paddle's
        (r"^stem\.(\d)\.", r"stem.stem.\1."),
        (r"\.aggregation_conv\.", ".aggregation.0."),
        (r"\.att\.", ".aggregation.1."),
    )
    classifier_keys = r"(head|last_conv|fc)\."

    def __init__(self, variant: HGNetVariant, *, output_stride: int) -> None:
        first, *others = zip((3, *variant.stem), variant.stem, strict=False)
        convs = [ConvBNAct(*first, kernel_size=3, stride=2)]
        convs += [ConvBNAct(*channels, kernel_size=3) for channels in others]
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        super().__init__(
            {"stem": nn.Sequential(OrderedDict(stem=nn.Sequential(*convs), pool=pool))},
            make_stage,
            channels=(variant.stem[-1], *(stage[1] for stage in variant.stages)),
            output_stride=output_stride,
            variant=variant,
        )


NETWORK = HGNet
# Name, accuracy that the authors state, layers of a block, stem; of each stage the width of layers,
# the channels out, the blocks. The weights were distilled from a larger network.
ROWS = (
    ("tiny", 81.95, 5, (48, 48, 96), (96, 128, 160, 192), (224, 448, 512, 768), (1, 1, 2, 1)),
    ("small", 83.82, 6, (64, 64, 128), (128, 160, 192, 224), (256, 512, 768, 1024), (1, 1, 2, 1)),
    ("base", 85.0, 7, (96, 96, 160), (192, 224, 256, 288), (320, 640, 960, 1280), (1, 2, 3, 2)),
)
VARIANTS = {
    f"hgnet_{name}": HGNetVariant(
        weights=timm_weights(f"hgnet_{name}.ssld_in1k", license="apache-2.0", top1=top1),
        stem=stem,
        stages=tuple(zip(widths, channels, num_blocks, strict=True)),
        num_layers=num_layers,
        light=False,
        aggregation="ese",
    )
    for name, top1, num_layers, stem, widths, channels, num_blocks in ROWS
}
