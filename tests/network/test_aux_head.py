"""The auxiliary head: where it starts, what it computes, and that it serves training only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead as TorchvisionHead

from network import create_model, load_checkpoint
from network._deeplab import FCNHead
from network.backbone import create_backbone
from network.pretrained import load_model_state, matching_models

RESNET = "deeplabv3plus_resnet18"
# The stage before last: its child and channels.
STAGES = {
    "resnet18": ("layer3", 256),
    "resnet50": ("layer3", 1024),
    "res2net50_48w_2s": ("layer3", 1024),
    "vovnetv2_19_slim_dw": ("stage3", 384),
    "hgnet_tiny": ("stage3", 512),
    "hgnetv2_b0": ("stage3", 512),
    "xception": ("block11", 728),  # the end of the middle flow
    "xception41": ("block10", 728),
    "xception71": ("block20", 728),
}
WITHOUT = ("mobilenet", "hrnetv2_18_small")


def without_dropout(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_head_is_torchvisions(training: bool, randomize, assert_same) -> None:
    ours, theirs = randomize(FCNHead(24, 5)), TorchvisionHead(24, 5).double()
    theirs.load_state_dict(ours.state_dict())
    assert [m.p for m in ours if isinstance(m, nn.Dropout)] == [0.1]
    without_dropout(ours).train(training), without_dropout(theirs).train(training)
    x = torch.randn(2, 24, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("name", STAGES)
def test_where_it_starts(name: str) -> None:
    with torch.device("meta"):
        for output_stride, reduction in ((8, 8), (16, 16), (32, 16)):
            aux = create_backbone(name, output_stride=output_stride).aux
            assert aux == (*STAGES[name], reduction)


def test_backbones_without_such_a_stage_say_so() -> None:
    for name in WITHOUT:
        with pytest.raises(ValueError, match=f"^{name} has no stage for an auxiliary head"):
            create_model(f"deeplabv3_{name}", aux_head=True)


@pytest.mark.parametrize("name", ["resnet18", "hgnetv2_b0", "xception"])
def test_outputs(name: str, randomize, images, assert_same) -> None:
    model = randomize(create_model(f"deeplabv3_{name}", num_classes=4, aux_head=True))
    backbone = create_backbone(name, output_stride=16).double()
    backbone.load_state_dict(model.backbone.state_dict())
    without_dropout(model).train()
    x = images(33, 47)
    outputs = model.low_res_outputs(x)
    assert list(outputs) == ["out", "aux"]
    y = x
    for child_name, child in backbone.train().named_children():
        y = child(y)
        if child_name == STAGES[name][0]:
            assert_same(outputs["aux"], model.aux_classifier(y))
    assert_same(outputs["out"], model.low_res_logits(x))
    assert outputs["aux"].shape[1] == outputs["out"].shape[1] == 4
    model.eval()
    with torch.no_grad():
        outputs = model.low_res_outputs(x)
        assert list(outputs) == ["out"]
        assert torch.equal(outputs["out"], model.low_res_logits(x))


def test_its_loss_reaches_the_stages_before_it() -> None:
    model = create_model(RESNET, aux_head=True).train()
    model.low_res_outputs(torch.randn(2, 3, 33, 33))["aux"].square().mean().backward()
    reached = {
        ".".join(k.split(".")[:2]) for k, p in model.named_parameters() if p.grad is not None
    }
    stages = {f"backbone.{name}" for name in ("conv1", "bn1", "layer1", "layer2", "layer3")}
    assert reached == stages | {f"aux_classifier.{index}" for index in (0, 1, 4)}


def test_nothing_else_computes_it() -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("computed")

    model = create_model(RESNET, aux_head=True)
    model.aux_classifier.register_forward_pre_hook(refuse)
    x = torch.randn(2, 3, 33, 33)
    for training in (True, False):
        model.train(training)
        model(x), model.low_res_logits(x)
    model.low_res_outputs(x)
    plain = create_model(RESNET).train()
    assert plain.aux_classifier is None and list(plain.low_res_outputs(x)) == ["out"]


def test_build_args_and_keys() -> None:
    with torch.device("meta"):
        model = create_model(RESNET, num_classes=7, aux_head=True, separable_conv=True)
        plain = create_model(RESNET, num_classes=7, separable_conv=True)
        again = create_model(RESNET, **model.build_args)
    assert model.build_args["aux_head"] is True and plain.build_args["aux_head"] is False
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {k: tuple(v.shape) for k, v in again.state_dict().items()} == shapes
    more = {key: shape for key, shape in shapes.items() if key not in plain.state_dict()}
    statistics = ("weight", "bias", "running_mean", "running_var")
    assert list(shapes)[: -len(more)] == list(plain.state_dict())
    assert more == {
        "aux_classifier.0.weight": (64, 256, 3, 3),
        **{f"aux_classifier.1.{name}": (64,) for name in statistics},
        "aux_classifier.1.num_batches_tracked": (),
        "aux_classifier.4.weight": (7, 64, 1, 1),
        "aux_classifier.4.bias": (7,),
    }


# Checkpoints.


def test_predictions_need_none_of_it(tmp_path: Path, own_checkpoint: Callable) -> None:
    model = create_model(RESNET, num_classes=2, aux_head=True).eval()
    torch.save(own_checkpoint(model), tmp_path / "a.pth")
    again = load_checkpoint(tmp_path / "a.pth")
    assert again.aux_classifier is None and again.build_args["aux_head"] is False
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(state) == list(expected)
    for key, value in state.items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("finetune", [False, True])
def test_tensors_with_and_without_it(finetune: bool) -> None:
    theirs = create_model(RESNET, num_classes=3, aux_head=True)
    last = ("classifier.classifier.3.", "aux_classifier.4.")
    for had in (True, False):
        model = create_model(RESNET, num_classes=5 if finetune else 3, aux_head=True)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        state = theirs.state_dict()
        if not had:
            state = {k: v for k, v in state.items() if not k.startswith("aux_classifier.")}
        load_model_state(model, state, source="X.pth", finetune=finetune)
        for key, value in model.state_dict().items():
            kept = key not in state or (finetune and key.startswith(last))
            assert torch.equal(value, before[key] if kept else state[key]), key


def test_half_a_head_is_an_error() -> None:
    model = create_model(RESNET, aux_head=True)
    state = model.state_dict()
    del state["aux_classifier.1.weight"]
    with pytest.raises(ValueError, match=r"no tensor aux_classifier\.1\.weight"):
        load_model_state(model, state, source="X.pth")
    assert matching_models(state) == [f"{RESNET} (21 classes)"]
