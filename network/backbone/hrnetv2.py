"""HRNetV2 (Wang et al. 2020, arXiv:1908.07919).

Most networks shrink the map and recover the detail later. This one keeps a map of stride 4 to the
end, and every stage adds a branch of half the resolution. After each module, every branch receives
the maps of all others. Branch b has C * 2^b channels at stride 4 * 2^b.

    one HighResolutionModule with 3 branches
    x0 (C,H,W)     -- BasicBlocks -- y0 --.          .-- ReLU(f00 + f01 + f02) (C,H,W)
    x1 (2C,H/2,W/2) - BasicBlocks -- y1 --+-- fuse --+-- ReLU(f10 + f11 + f12) (2C,H/2,W/2)
    x2 (4C,H/4,W/4) - BasicBlocks -- y2 --'          '-- ReLU(f20 + f21 + f22) (4C,H/4,W/4)

    f_ij brings y_j into branch i:  j = i   y_j itself
                                    j > i   1x1, BN, upsample
                                    j < i   i - j times 3x3 s2, BN, with ReLU between

    transition: the new branch is a 3x3 s2 convolution of the lowest one
    concat:     all four branches at the size of branch 0: (15C,H,W), stride 4
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..upsampled_conv import ConcatMaps, upsample
from .base import Backbone, FeatureInfo, Variant, conv, conv_bn, timm_weights
from .base import __getattr__ as __getattr__  # type checkers: a function a variant
from .resnet import BasicBlock, Bottleneck


class Transition(nn.ModuleList):
    """From the branches of one stage (or the stem's single map) to those of the next."""

    def __init__(self, in_channels: list[int], channels: list[int]) -> None:
        paths: list[nn.Module] = []
        for index, out_channels in enumerate(channels):
            if index >= len(in_channels):
                path = conv_bn(conv(in_channels[-1], out_channels, kernel_size=3, stride=2))
                paths.append(nn.Sequential(path))  # the authors' files have one more level here
            elif in_channels[index] != out_channels:
                paths.append(conv_bn(conv(in_channels[index], out_channels, kernel_size=3)))
            else:
                paths.append(nn.Identity())
        super().__init__(paths)

    def forward(self, branches: Tensor | list[Tensor]) -> list[Tensor]:
        if isinstance(branches, Tensor):
            branches = [branches]
        last = len(branches) - 1
        return [path(branches[min(index, last)]) for index, path in enumerate(self)]


def fusion_path(channels: list[int], *, source: int, target: int) -> nn.Module:
    """The layers from branch `source` to branch `target`, without the upsampling."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_bn(conv(channels[source], channels[target], kernel_size=1), None)
    steps = [
        conv_bn(conv(channels[source], channels[source], kernel_size=3, stride=2))
        for _ in range(target - source - 1)
    ]
    last = conv_bn(conv(channels[source], channels[target], kernel_size=3, stride=2), None)
    return nn.Sequential(*steps, last)


class HighResolutionModule(nn.Module):
    """Residual blocks on every branch; then every branch is added to every other."""

    fuse_mode = "nearest"  # see `HRNetV2.configure`

    def __init__(self, channels: list[int], *, num_blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[BasicBlock(width, width) for _ in range(num_blocks)])
            for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(
                fusion_path(channels, source=source, target=target)
                for source in range(len(channels))
            )
            for target in range(len(channels))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        return [self.fuse(branches, target) for target in range(len(branches))]

    def fuse(self, branches: list[Tensor], target: int) -> Tensor:
        """Sum of all branches in the shape of branch `target`."""
        total = branches[target]
        size = (total.shape[2], total.shape[3])
        for source, path in enumerate(cast(nn.ModuleList, self.fuse_layers[target])):
            if source == target:
                continue
            x = path(branches[source])
            if source > target:
                # To a size, not by a factor: no side has to be a multiple of 32.
                x = upsample(x, size, mode=self.fuse_mode)
            total = total + x
        return F.relu(total)


@dataclass(frozen=True, kw_only=True)
class HRNetVariant(Variant):
    """Numbers of one HRNetV2; `num_modules` is for stages 2, 3 and 4."""

    width: int
    layer1_blocks: int = 4
    layer1_channels: int = 64
    num_modules: tuple[int, int, int] = (1, 4, 3)
    num_blocks: int = 4


def make_stage(channels: list[int], num_modules: int, *, num_blocks: int) -> nn.Sequential:
    """Modules with as many branches as there are `channels`."""
    return nn.Sequential(
        *[HighResolutionModule(channels, num_blocks=num_blocks) for _ in range(num_modules)]
    )


class HRNetV2(Backbone):
    """Stem (stride 4), a bottleneck stage, and three stages of 2, 3 and 4 parallel branches.

    From `transition1` on, stages take and give a list of branches; `concat` joins them.
    """

    output_strides = (4,)
    renames = (
        # VainF/DeepLabV3Plus-Pytorch names only the new branch: the others pass unchanged.
        (r"^transition([23])\.([01])\.", r"transition\1.\1.0.\2."),
    )
    predecessor_args = MappingProxyType({"stem_relu": False})
    predecessor_names = r"transition[23]\.[01]\."
    # The heads of the authors' segmentation networks, and of mmsegmentation's.
    told_by = (
        (
            r"(^|\.)(last_layer|ocr_\w+|aux_head|cls_head|decode_head|auxiliary_head)\.",
            MappingProxyType({"fuse_mode": "bilinear"}),
        ),
    )
    classifier_keys = (
        r"(incre_modules|downsamp_modules|final_layer|classifier|bn_classifier|last_layer"
        r"|ocr_\w+|aux_head|cls_head)\."
    )

    def __init__(self, variant: HRNetVariant, *, output_stride: int) -> None:
        layer1_out = variant.layer1_channels * Bottleneck.expansion
        stages: dict[str, nn.Module] = {
            "conv1": conv(3, 64, kernel_size=3, stride=2),
            "bn1": nn.BatchNorm2d(64),
            "relu1": nn.ReLU(inplace=True),  # see `configure`
            "conv2": conv(64, 64, kernel_size=3, stride=2),
            "bn2": nn.BatchNorm2d(64),
            "relu2": nn.ReLU(inplace=True),
            "layer1": nn.Sequential(
                *[
                    Bottleneck(layer1_out if index else 64, variant.layer1_channels)
                    for index in range(variant.layer1_blocks)
                ]
            ),
        }
        channels = [layer1_out]
        for number, num_modules in enumerate(variant.num_modules, start=1):
            previous, channels = channels, [variant.width * 2**b for b in range(number + 1)]
            stages[f"transition{number}"] = Transition(previous, channels)
            stages[f"stage{number + 1}"] = make_stage(
                channels, num_modules, num_blocks=variant.num_blocks
            )
        stages["concat"] = ConcatMaps()
        super().__init__(
            stages,
            low_level=FeatureInfo("layer1", layer1_out, 4),
            out=FeatureInfo("concat", sum(channels), output_stride),
            variant=variant,
        )

    @staticmethod
    def configure(stages: nn.Module, *, fuse_mode: str = "nearest", stem_relu: bool = True) -> None:
        """`fuse_mode` says how the fusion upsamples, `stem_relu` whether the first ReLU is there.

        The ImageNet weights were trained with "nearest", the authors' segmentation weights with
        "bilinear". VainF/DeepLabV3Plus-Pytorch leaves out the first ReLU.
        """
        if fuse_mode not in ("nearest", "bilinear"):
            raise ValueError(f"fuse_mode is {fuse_mode!r}; it must be 'nearest' or 'bilinear'")
        if not isinstance(stem_relu, bool):
            raise ValueError(f"stem_relu is {stem_relu!r}; it must be True or False")
        stages.add_module("relu1", nn.ReLU(inplace=True) if stem_relu else nn.Identity())
        for layer in stages.modules():
            if isinstance(layer, HighResolutionModule):
                layer.fuse_mode = fuse_mode


NETWORK = HRNet = HRNetV2  # HRNet: its name in VainF/DeepLabV3Plus-Pytorch
SMALL_VARIANTS = {
    "hrnetv2_18_small": HRNetVariant(
        width=16,
        layer1_blocks=1,
        layer1_channels=32,
        num_modules=(1, 1, 1),
        num_blocks=2,
        weights=timm_weights("hrnet_w18_small.gluon_in1k", top1=73.93, license="apache-2.0"),
    ),
    "hrnetv2_18_small_v2": HRNetVariant(
        width=18,
        layer1_blocks=2,
        num_modules=(1, 3, 2),
        num_blocks=2,
        weights=timm_weights("hrnet_w18_small_v2.gluon_in1k", top1=78.20, license="apache-2.0"),
    ),
}
VARIANTS = SMALL_VARIANTS | {
    f"hrnetv2_{width}": HRNetVariant(
        width=width,
        weights=timm_weights(f"hrnet_w{width}.{recipe}", top1=top1, license="mit"),
    )
    for width, recipe, top1 in (
        (18, "ms_aug_in1k", 78.11),
        (30, "ms_in1k", 78.20),
        (32, "ms_in1k", 78.45),
        (40, "ms_in1k", 78.93),
        (44, "ms_in1k", 78.89),
        (48, "ms_in1k", 79.33),
        (64, "ms_in1k", 79.46),
    )
}
