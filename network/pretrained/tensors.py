"""Matches the tensors of a file to our networks: their names, classes, the models they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from ..backbone import BACKBONES, Backbone
from ..factory import MODELS, build_model
from .checkpoint import State

# The last layers, whose shape depends on the number of classes: number 3 of DeepLabV3+, number 4
# of DeepLabV3, and that of the auxiliary head.
LAST_LAYER = r"(classifier\.classifier\.[34]|aux_classifier\.4)\."
AUX_HEAD = "aux_classifier."
UNUSED_COUNTER = "num_batches_tracked"  # old files lack it, and nothing depends on it


def rename(state: State, network: type[Backbone], *, prefix: str = "") -> State:
    """Give the tensors below `prefix` the names that the family uses."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(prefix):
            inner = key.removeprefix(prefix)
            for pattern, replacement in network.renames:
                inner = re.sub(pattern, replacement, inner)
            key = prefix + inner
        renamed[key] = value
    return renamed


def backbone_part(state: State) -> State:
    """The tensors of the backbone in a file that may hold a whole model, without prefixes."""
    for prefix in ("model.", "backbone."):  # of the HRNet segmentation files; of whole models
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


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
    return next((len(v) for k, v in state.items() if re.fullmatch(LAST_LAYER + "bias", k)), None)


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
    matches: list[str] = []
    state = without_aux_head(state)
    misfits = set()  # backbones; two models share each
    for name, (_, backbone_name) in MODELS.items():
        if backbone_name in misfits:
            continue
        own = rename(state, BACKBONES[backbone_name].network, prefix="backbone.")
        problems = differences(_shapes_of(name, separable_conv=separable), without_last_layer(own))
        if not problems:
            matches.append(f"{name} {note}")
        elif any("backbone." in problem for problem in problems):
            misfits.add(backbone_name)
    return matches
