"""Loads published weights and checkpoints into models.

A missing tensor and one of another shape are errors that name it. A report says which tensors of a
file were left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .._deeplab import DeepLabV3
from ..backbone import BACKBONES
from ..factory import build_model, model_parts
from .checkpoint import Checkpoint, State
from .files import is_predecessor_file, read_file, state_of
from .tensors import (
    AUX_HEAD,
    backbone_part,
    differences,
    has_aux_head,
    is_separable,
    matching_models,
    num_classes_of,
    rename,
    summarize,
    without_aux_head,
    without_last_layer,
)
from .weights import PERMISSIVE, describe, fetch


def default_weights(name: str) -> str:
    """The string "imagenet" where weights of the backbone are published, else "none"."""
    variant = BACKBONES[model_parts(name).backbone].variant
    return "none" if variant.weights is None else "imagenet"


def check_pretrained(name: str, pretrained: str | Path | bool | None) -> str | Path:
    """`pretrained` as "none", "imagenet" or the path of a file.

    A ValueError says that nobody has published ImageNet weights of the model's backbone.
    """
    if pretrained is None or pretrained is False or pretrained == "none":
        return "none"
    if pretrained is not True and pretrained != "imagenet":
        return pretrained
    if default_weights(name) == "none":
        raise ValueError(
            f"nobody has published ImageNet weights for {model_parts(name).backbone}; "
            "give a weight file, or none"
        )
    return "imagenet"


def load_pretrained(model: DeepLabV3, pretrained: str | Path | bool | None) -> list[str]:
    """Load "imagenet" (fetched if need be), a file, or nothing ("none") into `model.backbone`.

    Returns lines that say what was used, and name a license that restricts its use.
    """
    chosen = check_pretrained(model.name, pretrained)
    if chosen == "none":
        return []
    backbone_name = model_parts(model.name).backbone
    network, variant = BACKBONES[backbone_name]
    weights = variant.weights
    if chosen != "imagenet" or weights is None:
        lines = [load_backbone_weights(model, chosen)]
        if network.authors_license:
            lines.append(f"the authors' own files of this family are {network.authors_license}")
        return lines
    path = fetch(weights, backbone_name)
    lines = [load_backbone_weights(model, path, source=describe(weights))]
    if weights.license not in PERMISSIVE:
        lines.append(
            f"license of {describe(weights)}: {weights.license}, which is not permissive; read it "
            "before you use or share what you train from these weights"
        )
    return lines


def load_backbone_weights(model: DeepLabV3, path: str | Path, *, source: str | None = None) -> str:
    """Load a weight file into `model.backbone` and return one line that says what was used.

    The keys show the kind of the file: torchvision's, timm's, the authors', or a checkpoint of a
    whole model, ours or the predecessor's. For the authors' segmentation files of HRNet, build the
    model with `backbone_args={"fuse_mode": "bilinear"}`, as those were trained. A missing tensor or
    another shape is a ValueError. Messages call the file `source`.
    """
    source = source or str(path)
    backbone_name = model_parts(model.name).backbone
    network = BACKBONES[backbone_name].network
    content = read_file(path)
    if "mean" in content and "std" in content:  # our own checkpoint
        model.set_normalization(content["mean"], content["std"])
    whole = state_of(content, source=source)
    state = backbone_part(whole)
    other_parts = len(whole) - len(state)
    classifier = [key for key in state if re.match(network.classifier_keys, key)]
    state = rename({k: v for k, v in state.items() if k not in set(classifier)}, network)
    wanted = model.backbone.state_dict()
    used = {key: value for key, value in state.items() if key in wanted}
    stages = {name for name, _ in model.backbone.named_children()}
    # An extra tensor inside one of our stages is a sign of another variant.
    strays = [key for key in state if key not in wanted and key.split(".")[0] in stages]
    problems = differences(wanted, used) + [f"{key} is extra" for key in strays]
    if problems:
        raise ValueError(f"{source} does not fit {backbone_name}: {summarize(problems, network)}")
    model.backbone.load_state_dict(used, strict=False)
    reasons = {
        "other parts of its model": other_parts,
        "its classifier": len(classifier),
        "unknown": len(state) - len(used),
    }
    left_out = [f"{count} ({reason})" for reason, count in reasons.items() if count]
    report = f"{source}: {len(used)} of {len(whole)} tensors used for {backbone_name}"
    report += f", left out: {', '.join(left_out)}" if left_out else ""
    trained_with = dict(network.predecessor_args) if is_predecessor_file(content) else {}
    if any(model.build_args["backbone_args"].get(k) != v for k, v in trained_with.items()):
        report += f"; they were trained with backbone_args={trained_with}"
    return report


def load_model_state(
    model: DeepLabV3,
    state: State,
    *,
    source: str,
    finetune: bool = False,
    classes_hint: str = "",
) -> None:
    """Load the tensors of a whole model, ours or the predecessor's; errors call them `source`.

    `finetune` leaves the last layer as it is, so the number of classes may differ. The tensors of
    an auxiliary head are ignored if the model has none; without such tensors, the head stays as it
    is. Tensors of another model or class count are a ValueError that says what they fit;
    `classes_hint` says what to do about another class count.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    network = BACKBONES[model_parts(model.name).backbone].network
    state = rename(state, network, prefix="backbone.")
    own = model.state_dict()
    if has_aux_head(own) != has_aux_head(state):
        own, state = without_aux_head(own), without_aux_head(state)
    body = without_last_layer(state)
    body_problems = differences(without_last_layer(own), body)
    problems = body_problems if finetune else differences(own, state)
    if not problems:
        model.load_state_dict(body if finetune else state, strict=False)
        return
    theirs, ours = num_classes_of(state), num_classes_of(own)
    if theirs not in (None, ours) and not body_problems:
        raise ValueError(
            f"{source} has {theirs} classes, but {model.name} was built for {ours}"
            + (f"; {classes_hint}" if classes_hint else "")
        )
    this = model.name + (" with separable_conv" if is_separable(own) else "")
    only_aux_head = all(AUX_HEAD in problem for problem in problems)
    if not only_aux_head and (matches := matching_models(state)):
        raise ValueError(f"{source} does not fit {this}; it fits: {', '.join(matches)}")
    reason = summarize(body_problems or problems, network)
    raise ValueError(f"{source} fits neither {this} nor any other model: {reason}")


def predecessor_build_args(name: str, state: State) -> dict[str, Any]:
    """How to build `name` so that a checkpoint of the predecessor predicts what it did there.

    The tensors show the number of classes and separable convolutions. Its MobileNetV2 and HRNet
    compute something else with the same tensors. Its files do not state output stride and ASPP
    rates.
    """
    network = BACKBONES[model_parts(name).backbone].network
    args: dict[str, Any] = {
        "separable_conv": is_separable(state),
        "backbone_args": dict(network.predecessor_args),
    }
    if num_classes := num_classes_of(state):
        args["num_classes"] = num_classes
    return args


def load_checkpoint(
    path: str | Path, *, output_stride: int | None = None, name: str | None = None
) -> DeepLabV3:
    """Read a checkpoint file and rebuild the model it holds; see `rebuild`."""
    return rebuild(read_file(path), source=str(path), output_stride=output_stride, name=name)


def rebuild(
    content: Checkpoint,
    *,
    source: str,
    output_stride: int | None = None,
    name: str | None = None,
) -> DeepLabV3:
    """The model of a checkpoint that was read from `source`, in eval mode, on the CPU.

    The model has `class_names`, `palette` and the normalization of the checkpoint, the averaged
    weights if there are any, and no auxiliary head. `output_stride`, where not None, replaces that
    of the checkpoint. A checkpoint of the predecessor does not say which model it holds: it needs
    `name`, and its model has no names and palette.
    """
    state = state_of(content, source=source)
    stored = content.get("model_name")
    model_name = stored or name
    if model_name is None:
        fits = matching_models(state)
        hint = f" (it fits: {', '.join(fits)})" if fits else ""
        raise ValueError(f"{source} does not say which model it holds; give its name{hint}")
    if stored is not None and name not in (None, stored):
        raise ValueError(f"{source} holds {stored}, not {name}")
    args: dict[str, Any] = {
        **(content["build_args"] if stored else predecessor_build_args(model_name, state)),
        "aux_head": False,  # that head serves training only
    }
    if output_stride:
        args["output_stride"] = output_stride
    model = build_model(model_name, **args)
    load_model_state(model, state, source=source)
    names, palette = content.get("class_names"), content.get("palette")
    model.class_names = None if names is None else tuple(names)
    model.palette = None if palette is None else palette.numpy()
    model.set_normalization(content.get("mean", model.mean), content.get("std", model.std))
    return model.eval()
