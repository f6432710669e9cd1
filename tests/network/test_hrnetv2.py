"""HRNetV2 against timm's, stage by stage, and what timm's can't do: sizes off the 32 grid."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import create_backbone

TIMM_NAMES = {
    "hrnetv2_18_small": "hrnet_w18_small",
    "hrnetv2_18_small_v2": "hrnet_w18_small_v2",
    "hrnetv2_18": "hrnet_w18",
    "hrnetv2_30": "hrnet_w30",
    "hrnetv2_32": "hrnet_w32",
    "hrnetv2_40": "hrnet_w40",
    "hrnetv2_44": "hrnet_w44",
    "hrnetv2_48": "hrnet_w48",
    "hrnetv2_64": "hrnet_w64",
}
FAST = ["hrnetv2_18_small", "hrnetv2_18_small_v2"]
NAMES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in TIMM_NAMES]


def timm_model(name: str) -> nn.Module:
    return timm.create_model(TIMM_NAMES[name], features_only=True, feature_location="")


def pair(name, randomize, **backbone_args):
    ours = randomize(create_backbone(name, output_stride=4, backbone_args=backbone_args))
    theirs = timm_model(name).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def recorded(model: nn.Module, names: list[str], x: torch.Tensor) -> dict[str, object]:
    outputs: dict[str, object] = {}
    hooks = [
        getattr(model, name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.__setitem__(name, output)
        )
        for name in names
    ]
    with torch.no_grad():
        outputs["end"] = model(x)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_branches_equal_timm(name, training, randomize, images, assert_same):
    ours, theirs = pair(name, randomize)
    ours.train(training), theirs.train(training)
    for size in ((64, 64), (64, 96)):
        x = images(*size)
        stages = ["layer1", "stage2", "stage3", "stage4"]
        mine, others = recorded(ours, stages, x), recorded(theirs, stages, x)
        assert_same(mine["layer1"], others["layer1"])
        for stage in stages[1:]:
            assert len(mine[stage]) == len(others[stage]) == int(stage[-1])
            for branch, expected in zip(mine[stage], others[stage], strict=True):
                assert_same(branch, expected)
        branches = others["end"][1:]  # the first is the stem's
        size = branches[0].shape[-2:]
        expected = [F.interpolate(b, size=size, mode="bilinear") for b in branches]
        assert_same(mine["end"], torch.cat(expected, dim=1))


def test_bilinear_fusion_equals_timm_with_its_upsampling_replaced(randomize, images, assert_same):
    ours, theirs = pair("hrnetv2_18_small_v2", randomize, fuse_mode="bilinear")
    for layer in theirs.modules():
        if isinstance(layer, nn.Upsample):
            layer.mode, layer.align_corners = "bilinear", False
    ours.eval(), theirs.eval()
    x = images(64, 96, count=1)
    mine, others = recorded(ours, ["stage4"], x), recorded(theirs, ["stage4"], x)
    for branch, expected in zip(mine["stage4"], others["stage4"], strict=True):
        assert_same(branch, expected)


def test_fuse_modes_differ_and_share_their_tensors(randomize, images):
    nearest = randomize(create_backbone("hrnetv2_18_small")).eval()
    bilinear = create_backbone("hrnetv2_18_small", backbone_args={"fuse_mode": "bilinear"})
    bilinear = bilinear.double().eval()
    bilinear.load_state_dict(nearest.state_dict())
    x = images(64, 64, count=1)
    with torch.no_grad():
        a, b = nearest(x), bilinear(x)
    assert (a - b).abs().max() > 0.01 * a.abs().max()


def test_stem_relu_is_the_one_after_bn1(randomize, images, assert_same):
    args = {"stem_relu": False}
    ours = randomize(create_backbone("hrnetv2_18_small", backbone_args=args)).eval()
    theirs = timm_model("hrnetv2_18_small").double().eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.act1 = nn.Identity()
    x = images(64, 64, count=1)
    mine = recorded(ours, ["stage4"], x)["stage4"]
    for branch, expected in zip(mine, recorded(theirs, ["stage4"], x)["stage4"], strict=True):
        assert_same(branch, expected)


@pytest.mark.parametrize("size", [(33, 33), (65, 65), (97, 129), (513, 257)])
def test_any_size(size):
    backbone = create_backbone("hrnetv2_18_small").eval()
    with torch.no_grad():
        out = backbone(torch.randn(1, 3, *size))
    assert out.shape == (1, 240, -(-size[0] // 4), -(-size[1] // 4))
    assert out.isfinite().all()


def test_wrong_fuse_mode():
    with pytest.raises(ValueError, match="fuse_mode is 'cubic'; it must be 'nearest' or 'bili"):
        create_backbone("hrnetv2_18_small", backbone_args={"fuse_mode": "cubic"})
