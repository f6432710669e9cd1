"""Whole models, entry points, and the table of models."""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections import Counter

import pytest
import torch

import network
from network import create_model, list_models, modeling

BACKBONES = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
    "mobilenet",
    *("hrnetv2_18_small", "hrnetv2_18_small_v2", "hrnetv2_18", "hrnetv2_30", "hrnetv2_32"),
    *("hrnetv2_40", "hrnetv2_44", "hrnetv2_48", "hrnetv2_64"),
    *("res2net50_48w_2s", "res2net50_14w_8s", "res2net50_26w_4s", "res2net50_26w_6s"),
    *("res2net50_26w_8s", "res2net101_26w_4s", "res2next50", "res2net50d", "res2net101d"),
    *("vovnetv2_19_slim_dw", "vovnetv2_19_dw", "vovnetv2_19_slim", "vovnetv2_19"),
    *("vovnetv2_39", "vovnetv2_57", "vovnetv2_99"),
    *("vovnetv2_39b", "vovnetv2_57b", "vovnetv2_99b"),
    *("hgnet_tiny", "hgnet_small", "hgnet_base"),
    *("hgnetv2_b0", "hgnetv2_b1", "hgnetv2_b2", "hgnetv2_b3", "hgnetv2_b4", "hgnetv2_b5"),
    *("hgnetv2_b6", "xception", "xception41", "xception65", "xception71"),
]
NAMES = [
    f"{architecture}_{b}" for architecture in ("deeplabv3", "deeplabv3plus") for b in BACKBONES
]
SMALL = [
    "deeplabv3_resnet18",
    "deeplabv3plus_resnet18",
    "deeplabv3_mobilenet",
    "deeplabv3plus_mobilenet",
    "deeplabv3_hrnetv2_18_small",
    "deeplabv3plus_hrnetv2_18_small",
    "deeplabv3plus_res2net50_48w_2s",
    "deeplabv3_vovnetv2_19_slim_dw",
    "deeplabv3plus_vovnetv2_19_slim_dw",
    "deeplabv3_hgnet_tiny",
    "deeplabv3_hgnetv2_b0",
    "deeplabv3plus_hgnetv2_b0",
    "deeplabv3_xception",
    "deeplabv3plus_xception41",
]
# Of the predecessor's models: state-dict entries, parameters, classes.
PREDECESSOR = {
    "deeplabv3plus_mobilenet": (356, 5_225_717, 21),
    "deeplabv3_mobilenet": (350, 5_113_877, 21),
    "deeplabv3plus_resnet50": (368, 39_761_845, 21),
    "deeplabv3_resnet50": (362, 39_638_869, 21),
    "deeplabv3plus_resnet101": (674, 58_753_973, 21),
    "deeplabv3_resnet101": (668, 58_630_997, 21),
    "deeplabv3plus_hrnetv2_32": (1880, 33_918_517, 21),
    "deeplabv3_hrnetv2_32": (1874, 33_791_172, 4),
    "deeplabv3plus_hrnetv2_48": (1880, 71_719_861, 21),
    "deeplabv3_hrnetv2_48": (1874, 71_592_516, 4),
}
RESNET_BACKBONE = {"conv1": 1, "bn1": 5, "layer1": 60, "layer2": 78, "layer4": 60}
HRNET_BACKBONE = {
    **{"conv1": 1, "bn1": 5, "conv2": 1, "bn2": 5, "layer1": 78, "transition1": 12},
    **{"stage2": 108, "transition2": 6, "stage3": 744, "transition3": 6, "stage4": 864},
}
BACKBONE_KEYS = {
    "mobilenet": {"low_level_features": 54, "high_level_features": 252},
    "resnet50": {**RESNET_BACKBONE, "layer3": 114},
    "resnet101": {**RESNET_BACKBONE, "layer3": 420},
    "hrnetv2_32": HRNET_BACKBONE,
    "hrnetv2_48": HRNET_BACKBONE,
}
HEAD_KEYS = {
    "deeplabv3": {"classifier": 44},
    "deeplabv3plus": {"project": 6, "aspp": 36, "classifier": 8},
}


def num_params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PREDECESSOR)
def test_keys_and_parameters_are_the_predecessors(name):
    num_keys, params, num_classes = PREDECESSOR[name]
    architecture, backbone = name.split("_", 1)
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
    state = model.state_dict()
    assert (len(state), num_params(model)) == (num_keys, params)
    prefixes = Counter(tuple(key.split(".")[:2]) for key in state)
    expected = {("backbone", key): count for key, count in BACKBONE_KEYS[backbone].items()}
    expected |= {("classifier", key): count for key, count in HEAD_KEYS[architecture].items()}
    assert prefixes == expected


def test_head_keys_are_the_predecessors():
    with torch.device("meta"):
        plus = create_model("deeplabv3plus_mobilenet").classifier.state_dict()
        plain = create_model("deeplabv3_mobilenet").classifier.state_dict()
    shapes = {key: tuple(value.shape) for key, value in plus.items() if value.dim() == 4}
    assert shapes == {
        "project.0.weight": (48, 24, 1, 1),
        "aspp.convs.0.0.weight": (256, 320, 1, 1),
        "aspp.convs.1.0.weight": (256, 320, 3, 3),
        "aspp.convs.2.0.weight": (256, 320, 3, 3),
        "aspp.convs.3.0.weight": (256, 320, 3, 3),
        "aspp.convs.4.1.weight": (256, 320, 1, 1),
        "aspp.project.0.weight": (256, 1280, 1, 1),
        "classifier.0.weight": (256, 304, 3, 3),
        "classifier.3.weight": (21, 256, 1, 1),
    }
    assert {"classifier.3.bias", "classifier.1.running_mean", "aspp.convs.4.2.bias"} <= set(plus)
    ours = {key for key, value in plain.items() if value.dim() == 4}
    assert ours == {
        *(f"classifier.0.convs.{i}.0.weight" for i in range(4)),
        "classifier.0.convs.4.1.weight",
        "classifier.0.project.0.weight",
        "classifier.1.weight",
        "classifier.4.weight",
    }
    assert {"classifier.4.bias", "classifier.2.running_mean"} <= set(plain)


def test_list_models_and_entry_points():
    assert sorted(list_models()) == sorted(NAMES)
    for name in list_models():
        function = getattr(modeling, name)
        assert inspect.isfunction(function)
        assert (function.__name__, function.__qualname__) == (name, name)
        assert (
            function.__module__ == "network.modeling" and name.split("_", 1)[1] in function.__doc__
        )
        assert pickle.loads(pickle.dumps(function)) is function
        defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        stride = 4 if "hrnet" in name else 8
        assert defaults == {
            "num_classes": 21,
            "output_stride": stride,
            "pretrained_backbone": False,
        }


@pytest.mark.parametrize("none", [False, None, "none"])
def test_entry_point_builds(none):
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        model = modeling.deeplabv3plus_mobilenet(19, 16, none)
        assert (model.name, model.build_args["num_classes"]) == ("deeplabv3plus_mobilenet", 19)
        assert model.build_args["output_stride"] == 16
        assert modeling.deeplabv3_hrnetv2_18_small().build_args["output_stride"] == 4
        assert modeling.deeplabv3_resnet18().build_args["output_stride"] == 8


@pytest.mark.parametrize("name", SMALL)
def test_any_size(name):
    model = create_model(name, num_classes=5).eval()
    for size in ((33, 33), (65, 98), (64, 96)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            features = model.backbone(x)
            low_res, logits = model.low_res_logits(x), model(x)
        assert list(features) == ["low_level", "out"]
        assert logits.shape == (1, 5, *size)
        taken = features["low_level" if "plus" in name else "out"]
        assert low_res.shape == (1, 5, *taken.shape[-2:])
        expected = torch.nn.functional.interpolate(low_res, size=size, mode="bilinear")
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("name", SMALL)
def test_trains(name):
    """Every parameter gets a gradient, but what V3's head leaves unused."""
    model = create_model(name, num_classes=3)
    model(torch.randn(2, 3, 35, 50)).square().mean().backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", SMALL)
def test_build_args_rebuild_the_model(name):
    model = create_model(name, num_classes=7, separable_conv=True, aspp_rates=(1, 2, 3)).eval()
    args = pickle.loads(pickle.dumps(model.build_args))
    again = create_model(model.name, pretrained="none", **args).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 41, 41)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    assert again.build_args == model.build_args
    assert set(args) == {
        *("num_classes", "output_stride", "separable_conv", "aspp_rates", "backbone_args"),
        "aux_head",
    }
    half = "_xception" in name or "vovnetv2_57b" in name
    assert model.mean == ((0.5, 0.5, 0.5) if half else (0.485, 0.456, 0.406))
    assert model.std == ((0.5, 0.5, 0.5) if half else (0.229, 0.224, 0.225))


def test_default_output_strides():
    with torch.device("meta"):
        assert create_model("deeplabv3_mobilenet").build_args["output_stride"] == 16
        assert create_model("deeplabv3_hrnetv2_18").build_args["output_stride"] == 4
    assert network.resolve_output_stride("deeplabv3_resnet18", None) == 16
    with pytest.warns(UserWarning, match="hrnetv2_18 always has output stride 4: 16 has no effect"):
        assert network.resolve_output_stride("deeplabv3_hrnetv2_18", 16) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "deeplabv3_resnet51",
            "unknown model 'deeplabv3_resnet51'; did you mean 'deeplabv3_resnet50'? "
            "All models: python main.py --list_models",
        ),
        ("deeplab3plus_mobilnet", "did you mean 'deeplabv3plus_mobilenet'?"),
        ("yolo", "unknown model 'yolo'. All models: python main.py --list_models"),
    ],
)
def test_unknown_model(name, message):
    with pytest.raises(ValueError) as error:
        create_model(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_impossible_arguments():
    with pytest.raises(ValueError, match="output stride 4 is not possible for resnet18; use 8, 16"):
        create_model("deeplabv3_resnet18", output_stride=4)
    with pytest.raises(ValueError, match="num_classes is 0"):
        create_model("deeplabv3_resnet18", num_classes=0)


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenet", "deeplabv3plus_hrnetv2_18_small"])
def test_channels_last(name):
    model = create_model(name).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 65, 65).to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model.backbone(x)
        outputs = [*features.values(), model.classifier(features), model(x)]
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs)


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "deeplabv3_mobilenet"])
def test_compiles_to_one_graph(name):
    model = create_model(name).eval()
    x = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), model(x), atol=1e-4)
    torch.compiler.reset()
