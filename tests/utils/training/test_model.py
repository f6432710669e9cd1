"""The network of a run: which weights it starts from, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import network
from utils import options
from utils.runtime.checkpoint import RunFiles
from utils.runtime.distributed import World
from utils.training.ema import Ema
from utils.training.model import build_model, load_backbone_weights, training_network
from utils.training.start import StartPoint

RESNET = "deeplabv3_resnet18"


def start_from(saved: Any, *, resumes: bool = False) -> StartPoint:
    """The start of a run from X.pth with the content `saved`; from nothing if that is empty."""
    ckpt = Path("X.pth") if saved else None
    return StartPoint(RunFiles(Path("out"), "r"), 16, ckpt, saved, resumes=resumes, notes=[])


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


def build(
    saved: dict[str, Any], *flags: str, num_classes: int = 3, resumes: bool = False
) -> tuple[network.DeepLabV3, str]:
    """The model of a run from `saved` with these options, and the note about it."""
    opts = options.parse_main(["--model", RESNET, "--pretrained", "none", *flags])
    start = start_from(saved, resumes=resumes)
    model = build_model(opts, num_classes=num_classes, start=start)
    return model, "; ".join(start.notes)


AUX, TEST = ("--aux_loss", "0.4"), ("--test_only", "--ckpt", "X.pth")


def is_average(model: nn.Module, saved: dict[str, Any]) -> bool:
    """Whether the model has the averaged weights; anything but the other ones is an error."""
    key = "backbone.conv1.weight"
    weight, training = model.state_dict()[key], saved["model_state"][key]
    average = torch.equal(weight, training * 0.5)
    assert average or torch.equal(weight, training)
    return average


def test_averaged_weights_but_for_what_goes_on(saved: dict[str, Any]) -> None:
    for flags in ((), TEST, (*TEST, "--continue_training")):
        model, note = build(saved, *flags)
        assert is_average(model, saved) and note == "averaged weights from X.pth"
    model, note = build(saved, resumes=True)
    assert not is_average(model, saved) and note == "weights from X.pth"
    model, note = build({**saved, "ema_state": None})
    assert not is_average(model, saved) and note == "weights from X.pth"
    model, note = build(
        saved, "--finetune", "--ckpt", "X.pth", "--aspp_rates", "1", "2", "3", num_classes=5
    )
    assert is_average(model, saved) and model.build_args["num_classes"] == 5
    assert note == ("all averaged weights but the final classifier's from X.pth, ASPP rates 1 2 3")


def test_a_new_auxiliary_head_is_said(saved: dict[str, Any]) -> None:
    model, note = build(saved, *AUX)
    assert model.aux_classifier is not None and is_average(model, saved)
    assert note == (
        "averaged weights from X.pth; it has no auxiliary head, so that one starts from random "
        "weights"
    )
    model, note = build(saved, *AUX, *TEST)
    assert model.aux_classifier is None and note == "averaged weights from X.pth"
    model, note = build({}, *AUX)
    assert model.build_args["aux_head"] is True and note == ""


def test_an_auxiliary_head_of_the_checkpoint(saved: dict[str, Any]) -> None:
    with_head = checkpoint_of(network.create_model(RESNET, num_classes=3, aux_head=True))
    key = "aux_classifier.0.weight"
    model, note = build(with_head, *AUX)
    assert torch.equal(model.state_dict()[key], with_head["model_state"][key] * 0.5)
    assert note == "averaged weights from X.pth"
    model, note = build(with_head, *AUX, resumes=True)
    assert torch.equal(model.state_dict()[key], with_head["model_state"][key])
    model, note = build(with_head)
    assert model.aux_classifier is None and note == "averaged weights from X.pth"


@pytest.mark.parametrize("had", [True, False])
def test_going_on_needs_the_same_heads(had: bool, saved: dict[str, Any]) -> None:
    if had:
        saved = checkpoint_of(network.create_model(RESNET, num_classes=3, aux_head=True))
    with pytest.raises(ValueError) as error:
        build(saved, *(() if had else AUX), resumes=True)
    assert str(error.value) == (
        "X.pth was trained with --aux_loss; to continue it, give --aux_loss too"
        if had
        else "X.pth was trained without --aux_loss; to continue it, leave out --aux_loss"
    )


@pytest.mark.parametrize("how", ["start", "resumes", "test_only"])
def test_the_hint_fits_what_is_done(how: str, saved: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as error:
        build(saved, *(TEST if how == "test_only" else ()), num_classes=4, resumes=how == "resumes")
    hints = {"start": "--finetune loads everything but the final classifier"}
    hint = hints.get(how, "give the --dataset or --num_classes it was trained with")
    assert str(error.value) == f"X.pth has 3 classes, but {RESNET} was built for 4; {hint}"


class OtherProcess(World):
    """A process that comes second: whatever the main process does, it does before."""

    def __init__(self, main: Callable[[], object]) -> None:
        super().__init__(1, 2, torch.device("cpu"))
        object.__setattr__(self, "main", main)

    def main_first(self, function: Callable[[], Any]) -> Any:
        self.main()
        return function()


def load(asked: str | None, main: Callable[[], object]) -> list[str]:
    """The notes on --pretrained, in a process that comes after the main one."""
    start, model = start_from({}), network.create_model(RESNET)
    load_backbone_weights(model, asked, start=start, world=OtherProcess(main))
    return start.notes


def test_weights_are_loaded_where_they_are_fetched_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(
        network.pretrained, "load_pretrained", lambda *args: [order.append(args[1]) or "loaded"]
    )
    assert load(None, lambda: order.append("main")) == ["loaded"]
    assert order == ["main", "imagenet"]

    def refuse() -> None:
        raise FileNotFoundError("no ImageNet weights")

    with pytest.raises(FileNotFoundError, match="no ImageNet weights"):
        load("imagenet", refuse)
    assert order == ["main", "imagenet"]
    (line,) = load("none", refuse)
    assert line.startswith("random weights")


def test_weights_are_not_fetched_for_a_run_that_starts_from_a_checkpoint() -> None:
    start = start_from({"model_state": {}})
    model = network.create_model(RESNET)
    load_backbone_weights(model, "imagenet", start=start, world=World(0, 1, torch.device("cpu")))
    assert start.notes == []


def test_activation_checkpointing_runs_the_backbone_twice_in_training_only() -> None:
    gradients, calls = [], list[nn.Module]()
    for flags in ((), ("--activation_checkpointing",)):
        torch.manual_seed(0)
        model, _ = build({}, "--freeze_backbone_itrs", "1", *flags)
        model.backbone["layer3"][1].register_forward_pre_hook(lambda layer, x: calls.append(layer))
        opts = options.parse_main(["--freeze_backbone_itrs", "1"])
        for step, runs in ((0, 1), (1, 2 if flags else 1)):
            calls.clear()
            torch.manual_seed(step)
            net = training_network(
                model, step, optim=opts.optim, world=World(0, 1, torch.device("cpu"))
            )
            net(torch.randn(2, 3, 33, 33))["out"].square().mean().backward()
            assert len(calls) == runs
        gradients.append([parameter.grad for parameter in model.parameters()])
        calls.clear()
        averaged = Ema(model, 0.9).model
        averaged(torch.randn(1, 3, 33, 33).requires_grad_()).mean().backward()
        assert len(calls) == 1
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
