"""The network of a run: which weights it starts from, and what is said about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import network
from utils.model import build_model, load_pretrained
from utils.options import ModelOptions

RESNET = "deeplabv3_resnet18"
ASKED = ModelOptions(model=RESNET, pretrained="none")


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """A checkpoint whose averaged weights are half the others, without an auxiliary head."""
    return checkpoint_of(network.create_model(RESNET, num_classes=3))


def checkpoint_of(model: nn.Module) -> dict[str, Any]:
    state = model.state_dict()
    return {
        "format": 1,
        "model_name": model.name,
        "build_args": model.build_args,
        "model_state": state,
        "ema_state": {key: value * 0.5 for key, value in state.items()},
    }


def build(saved: dict[str, Any], **changes: Any) -> tuple[nn.Module, str]:
    """The model and the single note on it."""
    options = {key: changes.pop(key) for key in ("finetune", "aspp_rates") if key in changes}
    asked = dataclasses.replace(ASKED, **options)
    num_classes = changes.pop("num_classes", 3)
    model, (note,) = build_model(
        asked, num_classes, stride=16, saved=saved, ckpt="X.pth", **changes
    )
    return model, note


def is_average(model: nn.Module, saved: dict[str, Any]) -> bool:
    """Whether the model has the averaged weights; anything but the other ones is an error."""
    key = "backbone.conv1.weight"
    weight, training = model.state_dict()[key], saved["model_state"][key]
    average = torch.equal(weight, training * 0.5)
    assert average or torch.equal(weight, training)
    return average


def test_averaged_weights_but_for_what_goes_on(saved: dict[str, Any]) -> None:
    for kind in ({}, {"test_only": True}, {"test_only": True, "continues": True}):
        model, note = build(saved, **kind)
        assert is_average(model, saved) and note == "averaged weights from X.pth"
    model, note = build(saved, continues=True)
    assert not is_average(model, saved) and note == "weights from X.pth"
    model, note = build({**saved, "ema_state": None})
    assert not is_average(model, saved) and note == "weights from X.pth"
    model, note = build(saved, finetune=True, num_classes=5, aspp_rates=(1, 2, 3))
    assert is_average(model, saved) and model.build_args["num_classes"] == 5
    assert note == ("all averaged weights but the final classifier's from X.pth, ASPP rates 1 2 3")


def test_a_new_auxiliary_head_is_said(saved: dict[str, Any]) -> None:
    model, note = build(saved, aux_head=True)
    assert model.aux_classifier is not None and is_average(model, saved)
    assert note == (
        "averaged weights from X.pth; it has no auxiliary head: that one starts from random weights"
    )
    model, note = build(saved, aux_head=True, test_only=True)
    assert model.aux_classifier is None and note == "averaged weights from X.pth"
    model, notes = build_model(ASKED, 3, stride=16, saved={}, ckpt=None, aux_head=True)
    assert model.build_args["aux_head"] is True and notes == []


def test_an_auxiliary_head_of_the_checkpoint(saved: dict[str, Any]) -> None:
    with_head = checkpoint_of(network.create_model(RESNET, num_classes=3, aux_head=True))
    key = "aux_classifier.0.weight"
    model, note = build(with_head, aux_head=True)
    assert torch.equal(model.state_dict()[key], with_head["model_state"][key] * 0.5)
    assert note == "averaged weights from X.pth"
    model, note = build(with_head, aux_head=True, continues=True)
    assert torch.equal(model.state_dict()[key], with_head["model_state"][key])
    model, note = build(with_head)
    assert model.aux_classifier is None and note == "averaged weights from X.pth"


@pytest.mark.parametrize("had", [True, False])
def test_going_on_needs_the_same_heads(had: bool, saved: dict[str, Any]) -> None:
    if had:
        saved = checkpoint_of(network.create_model(RESNET, num_classes=3, aux_head=True))
    with pytest.raises(ValueError) as error:
        build(saved, aux_head=not had, continues=True)
    assert str(error.value) == (
        "X.pth was trained with --aux_loss; to continue it, give --aux_loss too"
        if had
        else "X.pth was trained without --aux_loss; to continue it, drop --aux_loss"
    )


@pytest.mark.parametrize("how", ["start", "continues", "test_only"])
def test_the_hint_fits_what_is_done(how: str, saved: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as error:
        build(saved, num_classes=4, **({how: True} if how != "start" else {}))
    hints = {"start": "--finetune loads all but the final classifier"}
    hint = hints.get(how, "give the --dataset or --num_classes it is of")
    assert str(error.value) == f"X.pth has 3 classes, but {RESNET} was built for 4; {hint}"


class OtherProcess:
    """The world of a process that comes second: whatever the main one finds, it finds after it."""

    def __init__(self, main: Callable[[], object]) -> None:
        self.main = main

    def main_first(self, function: Callable[[], object]) -> object:
        self.main()
        return function()


def test_weights_are_loaded_where_they_are_fetched_first(monkeypatch) -> None:
    order = []
    model = network.create_model(RESNET)
    monkeypatch.setattr(
        network.pretrained, "load_pretrained", lambda *args: [order.append(args[1]) or "loaded"]
    )
    world = OtherProcess(lambda: order.append("main"))
    assert load_pretrained(model, None, world=world) == ["loaded"]
    assert order == ["main", "imagenet"]

    def refuse() -> None:
        raise FileNotFoundError("no ImageNet weights")

    with pytest.raises(FileNotFoundError, match="no ImageNet weights"):
        load_pretrained(model, "imagenet", world=OtherProcess(refuse))
    assert order == ["main", "imagenet"]
    (line,) = load_pretrained(model, "none", world=OtherProcess(refuse))
    assert line.startswith("random weights")
