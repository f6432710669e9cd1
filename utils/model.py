"""The network of a run, and the weights it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

import network
from utils import distributed, options

# What to do about a checkpoint with another number of classes.
FINETUNE_HINT = "--finetune loads all but the final classifier"
DATA_HINT = "give the --dataset or --num_classes it is of"


def build_model(
    asked: options.ModelOptions,
    num_classes: int,
    *,
    stride: int,
    saved: Mapping[str, Any],
    ckpt: str | None,
    aux_head: bool = False,
    continues: bool = False,
    test_only: bool = False,
) -> tuple[nn.Module, list[str]]:
    """The network asked for, with the weights of ``saved``, if any; and what was loaded.

    A run that ``continues`` gets the weights training goes on from, any other the averaged ones,
    where there are such. ``test_only`` needs no auxiliary head.
    """
    continues, aux_head = continues and not test_only, aux_head and not test_only
    if not saved:
        network.pretrained.check_pretrained(asked.model, asked.pretrained)
        return _create(asked, num_classes, stride=stride, built={}, aux_head=aux_head), []
    if saved.get("model_name", asked.model) != asked.model:
        raise ValueError(f"{ckpt} holds {saved['model_name']}, not --model {asked.model}")
    state = network.pretrained.state_of(saved, source=str(ckpt), averaged=not continues)
    if continues:
        _check_aux_head(state, aux_head=aux_head, ckpt=str(ckpt))
    # Ours say how they were built; the predecessor's files are recognised.
    built = saved.get("build_args") or network.pretrained.predecessor_build_args(asked.model, state)
    model = _create(asked, num_classes, stride=stride, built=built, aux_head=aux_head)
    hint = DATA_HINT if continues or test_only else FINETUNE_HINT
    network.pretrained.load_model_state(
        model, state, source=str(ckpt), finetune=asked.finetune, classes_hint=hint
    )
    model.set_normalization(saved.get("mean", model.mean), saved.get("std", model.std))
    kind = (
        "averaged weights" if network.pretrained.has_average(saved) and not continues else "weights"
    )
    note = f"all {kind} but the final classifier's" if asked.finetune else kind
    return model, [f"{note} from {ckpt}{_remarks(model, state)}"]


def _check_aux_head(state: Mapping[str, Tensor], *, aux_head: bool, ckpt: str) -> None:
    """Raise ValueError if a run would go on with an auxiliary head it did not have, or without."""
    had = network.pretrained.has_aux_head(state)
    if had != aux_head:
        raise ValueError(
            f"{ckpt} was trained with{'' if had else 'out'} --aux_loss; to continue it, "
            + ("give --aux_loss too" if had else "drop --aux_loss")
        )


def _remarks(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What else is worth saying about the model, in the words that follow "weights from FILE"."""
    rates = model.build_args["aspp_rates"]
    remarks = f", ASPP rates {' '.join(map(str, rates))}" if rates else ""
    if model.aux_classifier is not None and not network.pretrained.has_aux_head(state):
        remarks += "; it has no auxiliary head: that one starts from random weights"
    return remarks


def _create(
    asked: options.ModelOptions,
    num_classes: int,
    *,
    stride: int,
    built: Mapping[str, Any],
    aux_head: bool,
) -> nn.Module:
    """The network with random weights; ``built`` is how that of the checkpoint was built."""
    return network.create_model(
        asked.model,
        num_classes=num_classes,
        output_stride=stride,
        separable_conv=asked.separable_conv or built.get("separable_conv", False),
        aspp_rates=asked.aspp_rates or built.get("aspp_rates"),
        backbone_args=built.get("backbone_args"),
        aux_head=aux_head,
    )


def load_pretrained(model: nn.Module, asked: str | None, *, world: distributed.World) -> list[str]:
    """Give the backbone the weights of --pretrained; returns what to say about them."""
    default = network.default_weights(model.name)
    if (asked or default) == "none":
        if default == "none":
            return ["random weights: none to fetch by name; a file is given by --pretrained FILE"]
        return ["random weights: for ImageNet's, give --pretrained imagenet"]
    # First where they are fetched, then where they are in the cache.
    return world.main_first(lambda: network.pretrained.load_pretrained(model, asked or default))


def backbone_bn_momentum(
    asked: options.ModelOptions, saved: Mapping[str, Any], *, continues: bool
) -> float:
    """0.01 suits statistics that are good already; from scratch they would lag far behind."""
    if asked.bn_momentum is not None:
        return asked.bn_momentum
    if continues:
        return saved.get("bn_momentum", 0.01)
    starts_well = saved or (asked.pretrained or network.default_weights(asked.model)) != "none"
    return 0.01 if starts_well else 0.1
