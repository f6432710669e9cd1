"""Weights are found however a file wraps and names them; what can't be used is an error."""

from __future__ import annotations

import re

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from network import create_model, load_checkpoint
from network.pretrained import (
    has_average,
    load_backbone_weights,
    load_model_state,
    matching_models,
    read_file,
    state_of,
)
from network.pretrained import tensors as tensors_module

RESNET = "deeplabv3_resnet18"


@pytest.fixture(scope="module")
def resnet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """Its weights are replaced again and again."""
    with torch.device("meta"):
        empty = create_model(RESNET)
    return empty.to_empty(device="cpu")


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]}
# How the file wraps the tensors; "wrong" ones are zeros and must not be taken.
WRAPPERS = {
    "compiled": lambda right, wrong: below("_orig_mod.", right),
    "compiled, DDP, in parts": lambda right, wrong: {
        re.sub(r"^layer(\d)\.", r"module.layer\1._orig_mod.module.", k): v for k, v in right.items()
    },
    "FSDP": lambda right, wrong: below("_fsdp_wrapped_module.", right),
    "smp": lambda right, wrong: below("encoder.", right) | {"decoder.w": torch.ones(2)},
    "Lightning": lambda right, wrong: {"state_dict": below("net.", right), "epoch": 3},
    "Lightning of smp": lambda right, wrong: {"state_dict": below("model.encoder.", right)},
    "MoCo": lambda right, wrong: {
        "state_dict": below("module.encoder_q.", right)
        | below("module.encoder_k.", wrong)
        | {"module.queue": torch.ones(128, 9)},
        "optimizer": OPTIMIZER,
    },
    "DINO": lambda right, wrong: (
        {"student": below("module.backbone.", wrong)}
        | {"teacher": below("backbone.", right), "optimizer": OPTIMIZER}
    ),
    "D-FINE": lambda right, wrong: (
        {"model": below("backbone.", wrong)}
        | {"ema": {"module": below("backbone.", right), "updates": 7}, "optimizer": OPTIMIZER}
    ),
    "timm": lambda right, wrong: {"state_dict": wrong, "state_dict_ema": right, "arch": "resnet18"},
    "EMA without statistics": lambda right, wrong: {
        "ema": {k: v for k, v in wrong.items() if "running" not in k},
        "model": right,
    },
    "any name": lambda right, wrong: {"a": {"b": {"c": below("x.y.", right)}}, "d": torch.ones(3)},
    "Paddle": lambda right, wrong: {
        k.replace("running_mean", "_mean").replace("running_var", "_variance"): v
        for k, v in right.items()
        if "num_batches" not in k
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper, resnet, model, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(WRAPPERS[wrapper](resnet, zeros(resnet)), path)
    model.load_state_dict(zeros(model.state_dict()))
    report = load_backbone_weights(model, path)
    for key, value in model.backbone.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(value, resnet[key]), key
    places = {"D-FINE": "ema.module.backbone", "timm": "state_dict_ema", "DINO": "teacher.backbone"}
    said = f"; they are averaged weights, {places.get(wrapper)} in the file"
    assert report.endswith(said) if wrapper in places else "averaged" not in report


def test_a_file_within_itself_ends(resnet, tmp_path):
    content: dict[str, object] = {"weights": resnet}
    content["again"] = content
    torch.save(content, tmp_path / "w.pth")
    assert "resnet18" in load_backbone_weights(create_model(RESNET), tmp_path / "w.pth")


@pytest.mark.slow  # three files of 60 MB
def test_whole_models_in_wrappers(tmp_path):
    model = create_model(RESNET, num_classes=3).eval()
    state = model.state_dict()
    for content, averaged in (
        (below("_orig_mod.", state), False),
        ({"state_dict": below("model.", state)}, False),
        ({"model": zeros(state), "ema": {"module": below("module.", state)}}, True),
    ):
        torch.save(content, tmp_path / "w.pth")
        again = load_checkpoint(tmp_path / "w.pth", name=RESNET)
        assert has_average(read_file(tmp_path / "w.pth")) is averaged
        for key, value in again.state_dict().items():
            assert torch.equal(value, state[key]), key


@pytest.mark.slow  # builds xception twice
def test_matrices_of_the_oldest_xception_files(tmp_path):
    """They hold 1x1 convolutions as matrices."""
    model = create_model("deeplabv3_xception", num_classes=2)
    state = {
        key: value[:, :, 0, 0] if "pointwise" in key else value
        for key, value in model.backbone.state_dict().items()
    }
    torch.save(state, tmp_path / "x.pth")
    other = create_model("deeplabv3_xception", num_classes=2, pretrained=tmp_path / "x.pth")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[key], value), key


@pytest.mark.parametrize("kind", ["RT-DETR", "Paddle"])
def test_names_of_hgnetv2(kind, tmp_path):
    model = create_model("deeplabv3_hgnetv2_b0", num_classes=2)
    renames = {
        "RT-DETR": [(r"^(stem\.stem\d\w?|stage\d.downsample)\.conv\.", r"\1.conv.1.")],
        "Paddle": [
            (r"\.aggregation\.0\.", ".aggregation_squeeze_conv."),
            (r"\.aggregation\.1\.", ".aggregation_excitation_conv."),
            (r"\.running_mean$", "._mean"),
            (r"\.running_var$", "._variance"),
        ],
    }[kind]
    renames.append((r"^stage(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."))
    state = {}
    for key, value in model.backbone.state_dict().items():
        if kind == "Paddle" and "num_batches" in key:
            continue
        for pattern, name in renames:
            key = re.sub(pattern, name, key)
        state[key] = value
    torch.save({"ema": {"module": below("backbone.", state)}}, tmp_path / "x.pth")
    other = create_model("deeplabv3_hgnetv2_b0", num_classes=2)
    report = load_backbone_weights(other, tmp_path / "x.pth")
    assert f"{len(state)} of {len(state)} tensors used" in report
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[key], value), key


@pytest.mark.slow  # runs resnet50 with its strides dilated
def test_torchvisions_deeplab(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    ).eval()
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "tv.pth")
    model = load_checkpoint(tmp_path / "tv.pth", name="deeplabv3_resnet50")
    assert model.build_args["output_stride"] == 8 and model.build_args["num_classes"] == 5
    x = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        expected = theirs(x)["out"]
        assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert matching_models(state_of(read_file(tmp_path / "tv.pth"), source="")) == [
        "deeplabv3_resnet50 (5 classes)"
    ]


@pytest.mark.slow  # a file of 130 MB
def test_torchvisions_fcn_gives_its_backbone_only(tmp_path):
    with torch.device("meta"):
        shapes = torchvision.models.segmentation.fcn_resnet50(
            weights=None, weights_backbone=None
        ).state_dict()
    torch.save({key: torch.zeros(value.shape) for key, value in shapes.items()}, tmp_path / "f.pth")
    with pytest.raises(
        ValueError, match=r"no tensor .*; the file has no head of a DeepLab: --pret"
    ):
        load_checkpoint(tmp_path / "f.pth", name="deeplabv3_resnet50")
    report = load_backbone_weights(create_model("deeplabv3_resnet50"), tmp_path / "f.pth")
    assert "318 of" in report and "resnet50" in report


# What can't be used.


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [{}, {"model_state": {}}, {"a": {"b": [torch.ones(1)]}}])
def test_an_empty_file_is_an_error(name, content, tmp_path):
    path = tmp_path / name
    if name.endswith("safetensors"):
        safetensors.torch.save_file({}, path)
    else:
        torch.save(content, path)
    for use in (
        read_file,
        lambda path: load_checkpoint(path, name=RESNET),
        lambda path: create_model(RESNET, pretrained=path),
    ):
        with pytest.raises(ValueError, match=f"{name} holds no tensors; it is not a checkpoint or"):
            use(path)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.full((64,), torch.nan), "holds NaN or infinite values"),
        (torch.full((64,), torch.inf), "holds NaN or infinite values"),
        (torch.ones(64, dtype=torch.int8), "is int8; it must be floating point"),
        (torch.ones(64, dtype=torch.float8_e4m3fn), "is float8_e4m3fn; it must be floating point"),
        (torch.ones(64, dtype=torch.complex64), "is complex64; it must be floating point"),
        (torch.ones(64).to_sparse(), "is sparse; it must be dense"),
        (torch.ones(64, device="meta"), "has no values"),
    ],
)
def test_values_that_no_network_can_use(value, problem, resnet, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(resnet | {"bn1.weight": value}, path)
    with pytest.raises(ValueError, match=rf"x.pth can't be used: bn1.weight {problem}"):
        create_model(RESNET, pretrained=path)
    model = create_model(RESNET, num_classes=2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.save(before | {"backbone.bn1.weight": value}, path)
    with pytest.raises(ValueError, match=rf"x.pth can't be used: backbone.bn1.weight {problem}"):
        load_model_state(model, read_file(path), source=str(path))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_a_negative_variance_is_an_error(resnet, tmp_path):
    torch.save(resnet | {"bn1.running_var": -resnet["bn1.running_var"]}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"bn1.running_var holds negative variances"):
        create_model(RESNET, pretrained=tmp_path / "x.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_fine(dtype, resnet, tmp_path):
    state = {k: v.to(dtype) for k, v in resnet.items()}  # counters too, as .half() files have
    torch.save(state, tmp_path / "x.pth")
    model = create_model(RESNET, pretrained=tmp_path / "x.pth")
    assert torch.equal(model.backbone["bn1"].weight, resnet["bn1.weight"].to(dtype).float())


def test_another_model_is_found_without_building_all(monkeypatch, tmp_path):
    """Building every model, even without memory, takes half a minute."""
    built = []
    build = tensors_module.build_model
    monkeypatch.setattr(
        tensors_module,
        "build_model",
        lambda name, **args: built.append(name) or build(name, **args),
    )
    tensors_module._shapes_of.cache_clear()
    with torch.device("meta"):
        theirs = create_model("deeplabv3plus_hrnetv2_18_small", num_classes=4, separable_conv=True)
        wrong = create_model("deeplabv3plus_hrnetv2_18_small", num_classes=4)
    assert matching_models(theirs.state_dict()) == [
        "deeplabv3plus_hrnetv2_18_small (4 classes, separable_conv)"
    ]
    state = wrong.state_dict()
    state["backbone.conv1.weight"] = torch.empty(64, 3, 5, 5)
    assert matching_models(state) == []
    assert len(built) <= 2
