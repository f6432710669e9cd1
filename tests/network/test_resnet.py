"""ResNets against torchvision's, stage by stage."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision

from network.backbone import create_backbone

STAGES = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
FAST = ["resnet18", "resnet50"]
SLOW = [
    "resnet34",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
NAMES = [*FAST, *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]]
DILATED = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}


def pair(name, output_stride, randomize):
    ours = randomize(create_backbone(name, output_stride=output_stride))
    kwargs = {}
    if output_stride != 32:
        kwargs["replace_stride_with_dilation"] = DILATED[output_stride]
    theirs = torchvision.models.get_model(name, weights=None, **kwargs).double()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) == {"fc.weight", "fc.bias"}
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_equals_torchvision(name, randomize, images, assert_same):
    ours, theirs = pair(name, 32, randomize)
    assert [child for child, _ in ours.named_children()] == STAGES
    for training, size in itertools.product((False, True), ((64, 64), (65, 97))):
        ours.train(training), theirs.train(training)
        x = y = images(*size)
        with torch.no_grad():
            for stage in STAGES:
                # Copies, since some layers work in place.
                x, y = getattr(ours, stage)(x.clone()), getattr(theirs, stage)(y.clone())
                assert_same(x, y)
    for key, value in ours.state_dict().items():  # running statistics included
        assert torch.allclose(value, theirs.state_dict()[key], rtol=1e-9, atol=1e-12), key


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_bottlenecks_equal_torchvision(output_stride, randomize, images, assert_same):
    ours, theirs = pair("resnet50", output_stride, randomize)
    ours.eval(), theirs.eval()
    x = images(65, 97, count=1)
    with torch.no_grad():
        y = x
        for stage in STAGES:
            y = getattr(theirs, stage)(y)
        assert_same(ours(x), y)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "wide_resnet50_2"])
def test_parameters_are_in_torchvisions_order(name):
    # An optimizer's saved state goes by the order of the parameters.
    with torch.device("meta"):
        ours = create_backbone(name)
        theirs = torchvision.models.get_model(name, weights=None)
    names = [n for n, _ in ours.named_parameters()]
    assert names == [n for n, _ in theirs.named_parameters()][:-2]
