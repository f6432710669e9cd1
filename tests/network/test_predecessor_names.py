"""What scripts written for VainF/DeepLabV3Plus-Pytorch import, and how they list its models."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import network
from network import create_model, list_models
from network._deeplab import ASPPConv, AtrousSeparableConvolution
from network.backbone import FAMILIES

ROOT = Path(__file__).parents[2]
CLASSES = ["DeepLabV3", "DeepLabHead", "DeepLabHeadV3Plus", "IntermediateLayerGetter"]
MODELS = [
    f"{architecture}_{backbone}"
    for architecture in ("deeplabv3", "deeplabv3plus")
    for backbone in ("resnet50", "resnet101", "mobilenet", "hrnetv2_48", "hrnetv2_32", "xception")
]
RESNETS = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"),
    *("resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
]
NAMES = {
    "network": [*CLASSES, *MODELS, "convert_to_separable_conv"],
    "network.modeling": [*CLASSES, *MODELS],
    "network._deeplab": [
        *("DeepLabV3", "DeepLabHead", "DeepLabHeadV3Plus", "AtrousSeparableConvolution"),
        *("ASPPConv", "ASPPPooling", "ASPP", "convert_to_separable_conv"),
    ],
    "network.utils": ["IntermediateLayerGetter", "_SimpleSegmentationModel"],
    "network.backbone.resnet": [*RESNETS, "ResNet", "BasicBlock", "Bottleneck", "model_urls"],
    "network.backbone.mobilenetv2": ["MobileNetV2", "mobilenet_v2", "model_urls"],
    "network.backbone.hrnetv2": ["HRNet", "hrnetv2_32", "hrnetv2_48"],
    "network.backbone.xception": ["Xception", "xception", "model_urls"],
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_there(module: str) -> None:
    for name in NAMES[module]:
        exec(f"from {module} import {name}", {})
        assert name in importlib.import_module(module).__dict__


def test_its_way_to_list_models_finds_just_them() -> None:
    found = sorted(
        name
        for name in network.modeling.__dict__
        if name.islower()
        and not (name.startswith("__") or name.startswith("_"))
        and callable(network.modeling.__dict__[name])
    )
    assert found == sorted(list_models())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_variant_is_a_function_of_its_family(family) -> None:
    for name in family.VARIANTS:
        function = family.__dict__[name]
        assert (function.__name__, function.__module__) == (name, family.__name__)
        assert name in function.__doc__
        assert pickle.loads(pickle.dumps(function)) is function
    first = next(iter(family.VARIANTS))
    strides = family.NETWORK.output_strides
    with torch.device("meta"):
        assert type(family.__dict__[first]()) is family.NETWORK
        assert family.__dict__[first]().out.reduction == strides[-1]
        assert family.__dict__[first](False, output_stride=strides[0]).out.reduction == strides[0]


def test_names_that_differ() -> None:
    from network.backbone import hrnetv2, mobilenetv2

    assert mobilenetv2.mobilenet_v2 is mobilenetv2.mobilenet
    assert hrnetv2.HRNet is hrnetv2.HRNetV2
    assert network.utils._SimpleSegmentationModel is network.utils.SimpleSegmentationModel
    assert network.deeplabv3plus_mobilenet is network.modeling.deeplabv3plus_mobilenet


def test_a_backbones_weights(tmp_path: Path) -> None:
    from network.backbone.resnet import resnet18

    model = create_model("deeplabv3plus_resnet18")
    torch.save(model.backbone.state_dict(), tmp_path / "weights.pth")
    loaded = resnet18(pretrained=tmp_path / "weights.pth").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.backbone.state_dict().items())
    assert not torch.equal(resnet18().conv1.weight, loaded["conv1.weight"])


def test_urls_of_weights() -> None:
    from network.backbone import hrnetv2, mobilenetv2, resnet, vovnetv2, xception

    host = "https://download.pytorch.org/models/"
    assert resnet.model_urls["resnet50"] == host + "resnet50-0676ba61.pth"
    assert mobilenetv2.model_urls["mobilenet_v2"] == host + "mobilenet_v2-b0353104.pth"
    assert xception.model_urls["xception"].endswith("/xception-43020ad28.pth")
    assert hrnetv2.model_urls["hrnetv2_48"].endswith(
        "/hrnet_w48.ms_in1k/resolve/main/model.safetensors"
    )
    assert isinstance(resnet.model_urls, Mapping) and list(resnet.model_urls) == RESNETS
    assert "vovnetv2_19" not in vovnetv2.model_urls  # nobody has published any


def test_separable_convolution_by_position() -> None:
    layer = AtrousSeparableConvolution(4, 6, 3, 2, 1, 1, False)
    depthwise, pointwise = layer.body
    assert (depthwise.stride, depthwise.padding, depthwise.groups) == ((2, 2), (1, 1), 4)
    assert depthwise.bias is None and pointwise.bias is None
    assert layer(torch.randn(1, 4, 8, 8)).shape == (1, 6, 4, 4)


def test_a_branch_of_aspp() -> None:
    branch = ASPPConv(8, 4, 6)
    assert branch(torch.randn(2, 8, 9, 7)).shape == (2, 4, 9, 7)
    assert [type(layer) for layer in branch][1:] == [nn.BatchNorm2d, nn.ReLU]
    with torch.device("meta"):
        aspp = create_model("deeplabv3plus_resnet18", output_stride=8).classifier.aspp
    dilations = [branch[0].dilation for branch in aspp.convs if isinstance(branch, ASPPConv)]
    assert dilations == [(12, 12), (24, 24), (36, 36)]


@pytest.mark.slow  # mypy reads all of torch
def test_mypy_knows_the_names(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import network\n"
        "from network.backbone.resnet import model_urls, resnet50\n"
        "from network.modeling import deeplabv3plus_mobilenet\n"
        "reveal_type(network.deeplabv3plus_mobilenet(num_classes=3))\n"
        "reveal_type(deeplabv3plus_mobilenet())\n"
        "resnet50(output_stride=8)\n"
    )
    command = [sys.executable, "-m", "mypy", str(script), "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count('"network._deeplab.DeepLabV3"') == 2
