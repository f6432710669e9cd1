"""HGNetV2 against timm's, stage by stage, and against the numbers of its authors' files."""

from __future__ import annotations

import itertools
import re

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from network import create_model
from network.backbone import BACKBONES, create_backbone

# Affine blocks without the classifier's; G multiply-adds at 512x512 for output
# strides 32, 16, 8. Only b0 to b3 have affine blocks.
FACTS = {
    "hgnetv2_b0": (30, (1.657, 2.498, 7.813)),
    "hgnetv2_b1": (30, (2.535, 3.512, 9.674)),
    "hgnetv2_b2": (41, (5.917, 8.207, 25.498)),
    "hgnetv2_b3": (47, (9.220, 13.076, 42.154)),
    "hgnetv2_b4": (0, (14.252, 19.399, 57.771)),
    "hgnetv2_b5": (0, (34.127, 47.942, 139.845)),
    "hgnetv2_b6": (0, (87.951, 117.768, 298.611)),
}
STAGES = ["stem", "stage1", "stage2", "stage3", "stage4"]
NAMES = [
    pytest.param(name, marks=[] if name == "hgnetv2_b0" else pytest.mark.slow) for name in FACTS
]


def timm_key(key):
    return re.sub(r"^stage(\d)", lambda match: f"stages.{int(match[1]) - 1}", key)


def pair(name, randomize):
    ours = randomize(create_backbone(name, output_stride=32))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in ours.named_parameters():
            if key.endswith("lab.scale"):
                parameter += torch.rand(1, generator=generator, dtype=torch.float64) - 0.5
    theirs = timm.create_model(name, pretrained=False).double()
    renamed = {timm_key(key): value for key, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected and all(key.startswith("head.") for key in missing)
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_equals_timm(name, randomize, images, assert_same):
    ours, theirs = pair(name, randomize)
    assert [child for child, _ in ours.named_children()] == STAGES
    for training, size in itertools.product((False, True), ((64, 64), (65, 97))):
        ours.train(training), theirs.train(training)
        x = y = images(*size)
        with torch.no_grad():
            for stage, their_stage in zip(ours, [theirs.stem, *theirs.stages], strict=True):
                x, y = stage(x), their_stage(y)
                assert_same(x, y)
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():  # running statistics included
        assert torch.allclose(value, state[timm_key(key)], rtol=1e-9, atol=1e-12), key


@pytest.mark.parametrize("name", NAMES)
def test_names_and_their_order_are_timms(name):
    with torch.device("meta"):
        ours, theirs = create_backbone(name), timm.create_model(name, pretrained=False)
    kept = [key for key in theirs.state_dict() if not key.startswith("head.")]
    assert [timm_key(key) for key in ours.state_dict()] == kept


@pytest.mark.parametrize("name", FACTS)
def test_affine_blocks(name):
    with torch.device("meta"):
        keys = list(create_backbone(name).state_dict())
    assert sum(key.endswith("lab.scale") for key in keys) == FACTS[name][0]
    assert not any("downsample.lab" in key or "conv1.lab" in key for key in keys)  # no ReLU there


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        (32, {"stage3": [(2, 1), 1], "stage4": [(2, 1), 1]}),
        (16, {"stage3": [(2, 1), 1], "stage4": [(1, 1), 2]}),
        (8, {"stage3": [(1, 1), 2], "stage4": [(1, 2), 4]}),
    ],
)
def test_dilations(output_stride, expected):
    """The downsampling convolution keeps the previous dilation, all 5x5 get the new one."""
    backbone = create_backbone("hgnetv2_b0", output_stride=output_stride)
    for stage, (downsample, dilation) in expected.items():
        stage = getattr(backbone, stage)
        conv = stage.downsample.conv
        assert (conv.stride[0], conv.dilation[0]) == downsample
        assert conv.padding == conv.dilation
        wide = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (5, 5)]
        assert wide and all(m.dilation == (dilation, dilation) for m in wide)
        assert all(m.padding == (2 * dilation, 2 * dilation) for m in wide)


@pytest.mark.slow  # a large network in float64
@pytest.mark.parametrize("output_stride", [16, 8])
def test_larger_ones_are_dilated_exactly_too(output_stride, randomize, images, assert_same):
    strided = randomize(create_backbone("hgnetv2_b4", output_stride=32)).eval()
    dense = create_backbone("hgnetv2_b4", output_stride=output_stride).double().eval()
    dense.load_state_dict(strided.state_dict())
    x, step = images(97, 129, count=1), 32 // output_stride
    with torch.no_grad():
        assert_same(dense(x)[:, :, ::step, ::step], strided(x))


@pytest.mark.parametrize("name", NAMES)
def test_cost(name):
    for output_stride, gmacs in zip((32, 16, 8), FACTS[name][1], strict=True):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            create_backbone(name, output_stride=output_stride)(torch.empty(1, 3, 512, 512))
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_timms_file_fits(name, tmp_path, capsys):
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    model = create_model(f"deeplabv3_{name}", pretrained=str(tmp_path / "timm.pth"))
    total = len(theirs.state_dict())
    used = total - sum(key.startswith("head.") for key in theirs.state_dict())
    assert f"{used} of {total} tensors used" in capsys.readouterr().out
    x = torch.randn(1, 3, 64, 64)
    backbone = create_backbone(name, output_stride=32).eval()
    backbone.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        assert torch.allclose(backbone(x), theirs.forward_features(x), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_exports_with_any_size(name):
    backbone = create_backbone(name, output_stride=16).eval()
    height, width = torch.export.Dim("height", min=33), torch.export.Dim("width", min=33)
    program = torch.export.export(
        backbone, (torch.randn(1, 3, 65, 97),), dynamic_shapes=({2: height, 3: width},)
    )
    for size in ((33, 50), (64, 96)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert torch.allclose(program.module()(x), backbone(x), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_bfloat16_and_finite(name):
    backbone = create_backbone(name).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(1, 3, 65, 65)
        for child in backbone:
            x = child(x)
            assert x.dtype == torch.bfloat16 and x.isfinite().all()


def test_what_the_weights_expect():
    for name in FACTS:
        variant = BACKBONES[name].variant
        assert variant.weights.source == f"timm/{name}.ssld_stage2_ft_in1k"
        assert variant.mean == (0.485, 0.456, 0.406) and variant.weights.license == "apache-2.0"
