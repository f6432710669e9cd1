"""Matches the tensors of a file to our networks: their names, classes, the models they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from ..backbone import BACKBONES, Backbone
from ..costs import stored_costs
from ..factory import MODELS, build_model
from .checkpoint import State
from .contents import UNUSED_COUNTER, value_problem

# The last layers, whose shape depends on the number of classes: number 3 of DeepLabV3+, number 4
# of DeepLabV3, and that of the auxiliary head.
LAST_LAYER = r"(classifier\.classifier\.[34]|aux_classifier\.4)\."
AUX_HEAD = "aux_classifier."
STATISTICS = ("running_mean", "running_var", UNUSED_COUNTER)  # the tensors that do not learn


def rename(state: State, network: type[Backbone], *, prefix: str = "") -> State:
    """Give the tensors below `prefix` the names that the family uses."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(prefix):
            key = prefix + network.own_name(key.removeprefix(prefix))
        renamed[key] = value
    return renamed


def shaped(state: State, wanted: Mapping[str, Tensor]) -> State:
    """The tensors, where a matrix stands for a 1x1 convolution with that convolution's shape.

    The oldest Xception files have such matrices.
    """
    return {
        key: value[:, :, None, None]
        if key in wanted and wanted[key].shape == (*value.shape, 1, 1)
        else value
        for key, value in state.items()
    }


def check_values(state: State, wanted: Mapping[str, Tensor], *, source: str) -> None:
    """Raise ValueError if a tensor that fits holds nothing that a network can compute with."""
    for key, value in state.items():
        floating = wanted[key].is_floating_point()
        problem = value_problem(value, floating=floating)
        if problem is None and key.endswith("running_var") and bool((value < 0).any()):
            problem = "holds negative variances"
        if problem:
            raise ValueError(f"{source} can't be used: {key} {problem}")


def differences(wanted: Mapping[str, Tensor], state: State) -> list[str]:
    """What keeps `state` from fitting the tensors of a model, in a few words each."""
    found = [f"no tensor {k}" for k in wanted if k not in state and not k.endswith(UNUSED_COUNTER)]
    for key, value in state.items():
        if key not in wanted:
            found.append(f"{key} is extra")
        elif value.shape != wanted[key].shape:
            found.append(f"{key} is {tuple(value.shape)}, not {tuple(wanted[key].shape)}")
    return found


def summarize(problems: list[str], network: type[Backbone]) -> str:
    """The first of some `differences`, the number of others, and what explains them all."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    pattern, reason = network.misfit or ("^$", "")
    known = all(re.search(pattern, problem) for problem in problems)
    return problems[0] + more + (f"; {reason}" if known else "")


def has_aux_head(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a whole model include an auxiliary head."""
    return any(key.startswith(AUX_HEAD) for key in state)


def without_aux_head(state: State) -> State:
    """All but the tensors of the auxiliary head, which serves training only."""
    return {key: value for key, value in state.items() if not key.startswith(AUX_HEAD)}


def num_classes_of(state: State) -> int | None:
    """Number of classes of the tensors of a whole model; None where there is no classifier."""
    last = (v for k, v in state.items() if re.fullmatch(LAST_LAYER + "bias", k) and v.dim() == 1)
    return next((len(bias) for bias in last), None)


def is_separable(state: State) -> bool:
    """Whether the head's convolutions were converted by `convert_to_separable_conv`."""
    return any(key.startswith("classifier.") and ".body.0." in key for key in state)


@cache
def _shapes_of(name: str, *, separable_conv: bool) -> State:
    """The tensors of a model without its last layer, on the meta device: shapes without memory."""
    with torch.device("meta"):
        state = build_model(name, separable_conv=separable_conv).state_dict()
    return without_last_layer(state)


def without_last_layer(state: State) -> State:
    """All but the tensors whose shape depends on the number of classes."""
    return {key: value for key, value in state.items() if not re.match(LAST_LAYER, key)}


def matching_models(state: State) -> list[str]:
    """The models that these tensors fit: `deeplabv3plus_mobilenet (19 classes)` and the like."""
    num_classes, separable = num_classes_of(state), is_separable(state)
    if num_classes is None:
        return []
    note = f"({num_classes} classes{', separable_conv' if separable else ''})"
    state = without_last_layer(without_aux_head(state))
    matches: list[str] = []
    for name in _models_of_size(state):
        own = rename(state, BACKBONES[MODELS[name].backbone].network, prefix="backbone.")
        if not differences(_shapes_of(name, separable_conv=separable), own):
            matches.append(f"{name} {note}")
    return matches


def _models_of_size(state: State) -> list[str]:
    """The models whose backbone has as many parameters as these tensors, by the table of costs.

    Building all models takes half a minute, even without memory.
    """
    of_backbone = [k for k in state if k.startswith("backbone.") and not k.endswith(STATISTICS)]
    size = sum(state[key].numel() for key in of_backbone)
    costs = stored_costs()
    return [
        name
        for name, (_, backbone) in MODELS.items()
        if backbone not in costs or costs[backbone]["params"]["backbone"] == size
    ]
