"""PP-HGNet against timm's at every output stride, its gate, and the names in others' files."""

from __future__ import annotations

import itertools
import re

import pytest
import timm
import torch
from timm.models.hgnet import HighPerfGpuNet
from torch import Tensor, nn

from network import create_model
from network.backbone import BACKBONES, create_backbone
from network.backbone.hgnet import HGNet
from network.backbone.hgnetv2 import ConvBNAct, EseModule, HGNetVariant
from network.pretrained import load_backbone_weights

VARIANTS = ("hgnet_tiny", "hgnet_small", "hgnet_base")
# A narrow one, for most tests: of each stage the channels in, of layers and out, and the blocks.
NARROW = "narrow"
STAGES = ((8, 8, 12, 1), (12, 8, 16, 1), (16, 12, 20, 2), (20, 16, 24, 1))
VARIANT = HGNetVariant(
    stem=(6, 6, 8),
    stages=tuple(stage[1:] for stage in STAGES),
    num_layers=3,
    light=False,
    aggregation="ese",
)
NAMES = [NARROW, *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)]
# Stride and dilation of the downsampling convolution, and dilation of the others, in the stages
# that lose their stride.
DILATED = {32: {}, 16: {3: (1, 2)}, 8: {2: (1, 2), 3: (2, 4)}}


def timm_key(key: str) -> str:
    return re.sub(r"^stage(\d)", lambda match: f"stages.{int(match[1]) - 1}", key)


def our_model(name: str, output_stride: int = 32) -> nn.Module:
    if name == NARROW:
        return HGNet(VARIANT, output_stride=output_stride)
    return create_backbone(name, output_stride=output_stride)


def timm_model(name: str, output_stride: int = 32) -> nn.Module:
    """timm's has no output stride: its convolutions are dilated here, by the exact rule."""
    if name == NARROW:
        rows = {
            f"stage{number}": [*stage, number > 1, False, 3, 3]
            for number, stage in enumerate(STAGES, 1)
        }
        model = HighPerfGpuNet({"stem_type": "v1", "stem_chs": [6, 6, 8], **rows})
    else:
        model = timm.create_model(name, pretrained=False)
    for index, (first, dilation) in DILATED[output_stride].items():
        stage = model.stages[index]
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                is_first = layer is stage.downsample.conv
                layer.dilation = layer.padding = (first if is_first else dilation,) * 2
                layer.stride = (1, 1)
    return model


def balanced(name: str, randomize, output_stride: int = 32) -> nn.Module:
    """Random weights under which features and gates stay moderate."""
    backbone = randomize(our_model(name, output_stride)).eval()
    with torch.no_grad():
        for layer in backbone.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight -= layer.weight.mean((1, 2, 3), keepdim=True)
            if isinstance(layer, EseModule):
                layer.conv.weight *= 0.02
    return backbone


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_equals_timm(name, output_stride, randomize, images, assert_same):
    ours = balanced(name, randomize, output_stride)
    theirs = timm_model(name, output_stride).double()
    renamed = {timm_key(key): value for key, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected and all(key.startswith("head.") for key in missing)
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
        ours, theirs = our_model(name), timm_model(name)
    kept = [key for key in theirs.state_dict() if not key.startswith("head.")]
    assert [timm_key(key) for key in ours.state_dict()] == kept


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", NAMES[:2])
def test_dilated_is_strided_on_the_sub_grid(name, output_stride, randomize, images, assert_same):
    """But for the gates: their mean is over more pixels."""
    strided = balanced(name, randomize)
    dense = our_model(name, output_stride).double().eval()
    dense.load_state_dict(strided.state_dict())
    step = 32 // output_stride
    for size in ((96, 96), (97, 129), (90, 107)):
        x = images(*size, count=1)
        with torch.no_grad():
            actual, expected = dense(x)[:, :, ::step, ::step], strided(x)
        assert 1e-9 < (actual - expected).norm() / expected.norm() < 5e-3
    for backbone in (strided, dense):
        for layer in backbone.modules():
            if isinstance(layer, EseModule):
                layer.forward = lambda x: x
    for size in ((96, 96), (97, 129), (90, 107)):
        x = images(*size, count=1)
        with torch.no_grad():
            assert_same(dense(x)[:, :, ::step, ::step], strided(x))


def test_the_gate_by_hand():
    gate = EseModule(2).double()
    with torch.no_grad():
        gate.conv.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, -1.0]]).view(2, 2, 1, 1))
        gate.conv.bias.copy_(torch.tensor([0.25, 0.0]))
    x = torch.tensor([[[[1.0, 3.0]], [[2.0, -2.0]]]], dtype=torch.float64)
    # The means are 2 and 0: the gates are sigmoid(2.25) and sigmoid(1).
    expected = x * torch.tensor([0.9046505351008906, 0.7310585786300049]).double().view(2, 1, 1)
    assert torch.allclose(gate(x), expected, atol=1e-7)


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (2, 3)])
def test_padding_same_is_a_row_below_and_a_column_to_the_right(size, images, assert_same):
    conv = ConvBNAct(3, 4, kernel_size=2, padding="same").double().eval()
    plain = nn.Conv2d(3, 4, 2, bias=False).double()
    plain.weight = conv.conv.weight
    x = images(*size)
    with torch.no_grad():
        expected = conv.bn(plain(nn.ZeroPad2d((0, 1, 0, 1))(x))).relu()
        assert conv(x).shape == (2, 4, *size)
        assert_same(conv(x), expected)
        odd = ConvBNAct(3, 4, kernel_size=3, dilation=2).double().eval()
        same = ConvBNAct(3, 4, kernel_size=3, dilation=2, padding="same").double().eval()
        same.load_state_dict(odd.state_dict())
        assert_same(same(x), odd(x))
    assert list(conv.state_dict()) == list(ConvBNAct(3, 4, kernel_size=2).state_dict())


def paddle_v1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of PaddleClas's pp_hgnet.py."""
    rules = {
        r"^stem\.stem\.": "stem.",
        r"\.aggregation\.0\.": ".aggregation_conv.",
        r"\.aggregation\.1\.": ".att.",
    }
    return paddle(state, rules)


def paddle_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of PaddleClas's pp_hgnet_v2.py."""
    rules = {
        r"\.aggregation\.0\.": ".aggregation_squeeze_conv.",
        r"\.aggregation\.1\.": ".aggregation_excitation_conv.",
    }
    return {**paddle(state, rules), "lab.scale": torch.ones(1), "lab.bias": torch.zeros(1)}


def paddle(state: dict[str, Tensor], rules: dict[str, str]) -> dict[str, Tensor]:
    rules = {**rules, r"\.running_mean$": "._mean", r"\.running_var$": "._variance"}
    renamed = {}
    for key, value in state.items():
        key = timm_key(key)
        for pattern, replacement in rules.items():
            key = re.sub(pattern, replacement, key)
        if not key.endswith("num_batches_tracked"):
            renamed[key] = value
    return renamed | {
        "fc.weight": torch.zeros(5, 1000),
        "last_conv.weight": torch.zeros(5, 5, 1, 1),
    }


def rt_detr(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of RT-DETR's hgnetv2.py: "same" is a border and a convolution."""
    rules = {
        r"\.aggregation\.0\.": ".aggregation_squeeze_conv.",
        r"\.aggregation\.1\.": ".aggregation_excitation_conv.",
        r"^(stem\.stem2[ab]\.conv)\.": r"\1.1.",
    }
    renamed = {}
    for key, value in state.items():
        key = timm_key(key)
        for pattern, replacement in rules.items():
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize(
    ("name", "others"),
    [("hgnet_tiny", paddle_v1), ("hgnetv2_b0", paddle_v2), ("hgnetv2_b0", rt_detr)],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_others_names_fit(name, others, prefix, tmp_path):
    theirs = create_backbone(name).state_dict()
    file = {prefix + key: value for key, value in others(theirs).items()}
    file |= {"decoder.weight": torch.zeros(1)} if prefix else {}
    torch.save(file, tmp_path / "file.pth")
    model = create_model(f"deeplabv3_{name}")
    line = load_backbone_weights(model, tmp_path / "file.pth")
    used = len([key for key in theirs if others is rt_detr or "num_batches" not in key])
    assert f"{used} of {len(file)} tensors used for {name}" in line
    loaded = model.backbone.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in theirs.items() if "num_batches" not in k)


@pytest.mark.parametrize("name", NAMES[1:])
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


@pytest.mark.slow  # exporting takes seconds
def test_exports_with_any_size():
    backbone = our_model(NARROW, 16).eval()
    height, width = torch.export.Dim("height", min=33), torch.export.Dim("width", min=33)
    program = torch.export.export(
        backbone, (torch.randn(1, 3, 65, 97),), dynamic_shapes=({2: height, 3: width},)
    )
    for size in ((33, 50), (64, 96)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert torch.allclose(program.module()(x), backbone(x), atol=1e-5)


def test_bfloat16_stays_bfloat16_and_finite():
    backbone = our_model(NARROW).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(1, 3, 65, 65)
        for child in backbone:
            x = child(x)
            assert x.dtype == torch.bfloat16 and x.isfinite().all()


def test_what_the_weights_expect():
    for name in VARIANTS:
        variant = BACKBONES[name].variant
        assert variant.weights.source == f"timm/{name}.ssld_in1k"
        assert variant.mean == (0.485, 0.456, 0.406) and variant.weights.license == "apache-2.0"
        assert timm.get_pretrained_cfg(f"{name}.ssld_in1k").license == "apache-2.0"
