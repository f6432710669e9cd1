"""Parameter groups, and updates with and without decay, against torch's own optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.optimizer import create_optimizer


class Parts(nn.Module):
    """A network of backbone, classifier and, if asked, auxiliary head."""

    def __init__(self, *, aux: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.classifier = nn.Conv2d(4, 2, 1)
        if aux:
            self.aux_classifier = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def names_in(model: nn.Module, group: dict) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


SETTINGS = {"lr": 0.1, "backbone_lr_mult": 0.1, "weight_decay": 0.5}
BACKBONE = ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]


def test_two_groups_as_the_predecessor_and_the_auxiliary_head_is_a_head() -> None:
    model = Parts(aux=True)
    backbone, head = create_optimizer("sgd", model, **SETTINGS).param_groups
    assert names_in(model, backbone) == BACKBONE
    assert names_in(model, head) == [
        "classifier.weight",
        "classifier.bias",
        "aux_classifier.0.weight",
        "aux_classifier.0.bias",
        "aux_classifier.1.weight",
        "aux_classifier.1.bias",
    ]
    assert (backbone["lr"], head["lr"]) == (pytest.approx(0.01), 0.1)
    assert backbone["weight_decay"] == head["weight_decay"] == 0.5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_four_groups_without_decay_of_norms_and_biases(name: str) -> None:
    model = Parts()
    groups = create_optimizer(name, model, **SETTINGS, no_decay_norm_bias=True).param_groups
    found = [(names_in(model, g), round(g["lr"], 9), g["weight_decay"]) for g in groups]
    assert found == [
        (BACKBONE[:1], 0.01, 0.5),
        (BACKBONE[1:], 0.01, 0.0),
        (["classifier.weight"], 0.1, 0.5),
        (["classifier.bias"], 0.1, 0.0),
    ]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_update_is_torchs(name: str, fused: bool) -> None:
    model, theirs = Parts(), Parts()
    theirs.load_state_dict(model.state_dict())
    ours = create_optimizer(name, model, **SETTINGS, fused=fused)
    decayed = {"weight_decay": 0.5} | ({"momentum": 0.9} if name == "sgd" else {})
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    references = [
        kind(theirs.backbone.parameters(), lr=0.01, **decayed),
        kind(theirs.classifier.parameters(), lr=0.1, **decayed),
    ]
    for step in range(3):
        for network, optimizers in ((model, [ours]), (theirs, references)):
            generator = torch.Generator().manual_seed(step)
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
