"""MobileNetV2 against torchvision's, and the predecessor's padding against its description."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from network.backbone import create_backbone


def pair(randomize, *, output_stride=32, **backbone_args):
    ours = randomize(
        create_backbone("mobilenet", output_stride=output_stride, backbone_args=backbone_args)
    )
    theirs = torchvision.models.mobilenet_v2(weights=None, dropout=0).double()
    features = theirs.features[:18]
    layers = [*ours.low_level_features, *ours.high_level_features]
    for index, layer in enumerate(layers):
        features[index].load_state_dict(layer.state_dict())
    return ours, layers, features


def test_inner_keys_go_on_from_low_to_high():
    ours = create_backbone("mobilenet", output_stride=16)
    assert list(ours.low_level_features._modules) == ["0", "1", "2", "3"]
    assert list(ours.high_level_features._modules) == [str(i) for i in range(4, 18)]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_every_layer_equals_torchvision(size, training, randomize, images, assert_same):
    ours, layers, features = pair(randomize)
    ours.train(training), features.train(training)
    x = y = images(*size)
    with torch.no_grad():
        for layer, feature in zip(layers, features, strict=True):
            x, y = layer(x.clone()), feature(y.clone())
            assert_same(x, y)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilations(output_stride):
    """Where the dilation grows: the layer that lost its stride keeps the previous one."""
    ours = create_backbone("mobilenet", output_stride=output_stride)
    dilations = {
        index: layer.dilation[0]
        for index, block in ours.high_level_features.named_children()
        for layer in block.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups > 1
    }
    expected = {
        16: {**dict.fromkeys(range(4, 15), 1), **dict.fromkeys(range(15, 18), 2)},
        8: {**dict.fromkeys(range(4, 8), 1), **dict.fromkeys(range(8, 15), 2), 15: 4, 16: 4, 17: 4},
    }
    assert dilations == {str(index): value for index, value in expected[output_stride].items()}


def padded_block(block: nn.Module, x: Tensor) -> Tensor:
    """The predecessor's block: the input is padded, and nothing else is."""
    convs = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convs:
        layer.padding = (0, 0)
    depthwise = next(layer for layer in convs if layer.groups > 1)
    margin = 2 * depthwise.dilation[0]  # of a 3x3 kernel, both sides together
    before, after = margin // 2, margin - margin // 2
    y = block.conv(F.pad(x, (before, after, before, after)))
    return x + y if block.use_res_connect else y


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("output_stride", [32, 16])
def test_legacy_padding(output_stride, training, randomize, images, assert_same):
    ours, layers, features = pair(randomize, output_stride=output_stride, legacy_padding=True)
    if output_stride == 16:  # block 14 loses its stride, what follows is dilated
        features[14].conv[1][0].stride = (1, 1)
        for block in features[15:]:
            block.conv[1][0].dilation = (2, 2)
    features[0][0].padding = (0, 0)
    ours.train(training), features.train(training)
    x = y = images(65, 98)
    with torch.no_grad():
        x, y = layers[0](x), features[0](y)
        assert_same(x, y)
        for layer, feature in zip(layers[1:], features[1:], strict=True):
            x, y = layer(x.clone()), padded_block(feature, y.clone())
            assert_same(x, y)


@pytest.mark.parametrize(
    ("output_stride", "size", "low_level", "out"),
    [(16, 513, 128, 32), (8, 513, 128, 64), (16, 512, 128, 32), (8, 512, 128, 64)],
)
def test_legacy_padding_sizes(output_stride, size, low_level, out):
    """Sizes measured on the predecessor; with ordinary padding 513 gives 129 and 33 or 65."""
    with torch.device("meta"):
        ours = create_backbone(
            "mobilenet", output_stride=output_stride, backbone_args={"legacy_padding": True}
        )
        first = ours.low_level_features(torch.empty(1, 3, size, size))
        last = ours.high_level_features(first)
    assert first.shape[-1] == low_level and last.shape[-1] == out
