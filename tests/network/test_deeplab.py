"""The two heads, ASPP and separable convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead as TorchvisionHead

from network import convert_to_separable_conv, create_model
from network._deeplab import ASPP, AtrousSeparableConvolution, DeepLabHead, DeepLabHeadV3Plus

RATES = (2, 3, 5)


def torchvision_head(ours: DeepLabHead, in_channels: int, num_classes: int) -> nn.Module:
    theirs = TorchvisionHead(in_channels, num_classes, RATES).double()
    state = {key.removeprefix("classifier."): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return theirs


def without_dropout(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_deeplabv3_head_equals_torchvision(size, training, randomize, assert_same):
    ours = randomize(DeepLabHead(24, 16, num_classes=5, atrous_rates=RATES))
    theirs = torchvision_head(ours, 24, 5)
    without_dropout(ours).train(training), without_dropout(theirs).train(training)
    x = torch.randn(2, 24, *size, dtype=torch.float64)
    with torch.no_grad():
        assert_same(ours({"out": x}), theirs(x))
        assert_same(ours.classifier[0](x), theirs[0](x))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_deeplabv3plus_head_is_its_drawing(training, randomize, assert_same):
    """Assembled from torchvision's ASPP and plain operations."""
    ours = randomize(DeepLabHeadV3Plus(24, 16, num_classes=5, atrous_rates=RATES))
    aspp = TorchvisionHead(24, 5, RATES)[0].double()
    aspp.load_state_dict(ours.aspp.state_dict())
    project, classifier = copy.deepcopy(ours.project), copy.deepcopy(ours.classifier)
    without_dropout(ours).train(training), without_dropout(aspp).train(training)
    project.train(training), classifier.train(training)
    low_level = torch.randn(2, 16, 17, 23, dtype=torch.float64)
    out = torch.randn(2, 24, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        upsampled = F.interpolate(aspp(out), (17, 23), mode="bilinear", align_corners=False)
        expected = classifier(torch.cat([project(low_level), upsampled], dim=1))
        assert_same(ours({"low_level": low_level, "out": out}), expected)
    assert [project[0].out_channels, classifier[0].in_channels] == [48, 304]


def test_head_has_dropout_of_a_tenth():
    dropouts = [m.p for m in ASPP(8, RATES).modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [0.1]


def test_head_initialisation():
    """He et al. 2015, fan in."""
    torch.manual_seed(0)
    head = DeepLabHeadV3Plus(320, 24, num_classes=21, atrous_rates=RATES)
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()


@pytest.mark.parametrize(
    ("name", "output_stride", "rates"),
    [
        ("deeplabv3plus_mobilenet", 8, [12, 24, 36]),
        ("deeplabv3plus_mobilenet", 16, [6, 12, 18]),
        ("deeplabv3_resnet18", 32, [3, 6, 9]),
        ("deeplabv3_hrnetv2_18_small", None, [12, 24, 36]),
    ],
)
def test_aspp_rates(name, output_stride, rates):
    def dilations(model: nn.Module) -> list[int]:
        aspp = next(m for m in model.modules() if isinstance(m, ASPP))
        return [branch[0].dilation[0] for branch in aspp.convs[1:4]]

    with torch.device("meta"):
        assert dilations(create_model(name, output_stride=output_stride)) == rates
        other = create_model(name, output_stride=output_stride, aspp_rates=(1, 2, 4))
    assert dilations(other) == [1, 2, 4] and other.build_args["aspp_rates"] == [1, 2, 4]


@pytest.mark.parametrize("rates", [(1, 2), (0, 1, 2), (1, 2, 3.5), ()])
def test_wrong_aspp_rates(rates):
    with pytest.raises(ValueError, match="give three positive whole numbers"):
        create_model("deeplabv3_resnet18", aspp_rates=rates)


@pytest.mark.parametrize("bias", [False, True])
def test_separable_convolution_is_a_full_one_of_rank_one(bias, randomize, assert_same):
    """Depthwise then 1x1 is the full kernel pointwise[o,i] * depthwise[i]; biases add up so too."""
    original = nn.Conv2d(6, 10, 3, stride=2, padding=3, dilation=3, bias=bias)
    ours = randomize(convert_to_separable_conv(original))
    assert isinstance(ours, AtrousSeparableConvolution)
    depthwise, pointwise = ours.body
    weight = torch.einsum("oi,iyx->oiyx", pointwise.weight[..., 0, 0], depthwise.weight[:, 0])
    total = None
    if bias:
        total = pointwise.weight[..., 0, 0] @ depthwise.bias + pointwise.bias
    x = torch.randn(2, 6, 13, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = F.conv2d(x, weight, total, stride=2, padding=3, dilation=3)
        assert_same(ours(x), expected)
    assert list(ours.state_dict()) == [
        f"body.{i}.{kind}" for i in (0, 1) for kind in (["weight", "bias"] if bias else ["weight"])
    ]


@pytest.mark.parametrize(
    ("name", "converted"),
    [
        # C_in * 9 + C_in * C_out instead of C_in * C_out * 9, of the convolutions above 1x1:
        # three of ASPP, and the 3x3 before the classifier (304 -> 256, or 256 -> 256).
        ("deeplabv3plus_mobilenet", [(320, 256)] * 3 + [(304, 256)]),
        ("deeplabv3_mobilenet", [(320, 256)] * 3 + [(256, 256)]),
        ("deeplabv3_resnet18", [(512, 256)] * 3 + [(256, 256)]),
    ],
)
def test_separable_parameter_counts(name, converted):
    with torch.device("meta"):
        plain, separable = create_model(name), create_model(name, separable_conv=True)
    saved = sum(p.numel() for p in plain.parameters()) - sum(
        p.numel() for p in separable.parameters()
    )
    assert saved == sum(9 * i * o - (9 * i + i * o) for i, o in converted)
    keys = [key for key in separable.state_dict() if ".body." in key]
    assert len(keys) == 8 and all(key.startswith("classifier.") for key in keys)
    assert separable.build_args["separable_conv"] is True


def test_converting_twice_is_converting_once():
    head = convert_to_separable_conv(DeepLabHead(8, 8, num_classes=3, atrous_rates=RATES))
    keys = list(head.state_dict())
    assert list(convert_to_separable_conv(head).state_dict()) == keys
    assert head({"out": torch.randn(2, 8, 5, 5)}).shape == (2, 3, 5, 5)


def test_grouped_and_1x1_convolutions_stay():
    module = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1))
    before = list(module)
    convert_to_separable_conv(module)
    assert list(module) == before
