"""How published weights and checkpoints are fetched, recognised, renamed and loaded.

A tensor that is missing or has another shape is an error that names it; what a file holds beyond
the model is reported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

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
    summarise,
    without_aux_head,
    without_last_layer,
)
from .weights import PERMISSIVE, describe, fetch


def default_weights(name: str) -> str:
    """ "imagenet" where weights of the model's backbone are published, else "none"."""
    variant = BACKBONES[model_parts(name).backbone].variant
    return "none" if variant.weights is None else "imagenet"


def check_pretrained(name: str, pretrained: str | Path | bool | None) -> str | Path:
    """``pretrained`` as "none", "imagenet" or a file.

    ValueError where nobody has published ImageNet weights of the model's backbone.
    """
    if pretrained in (None, False, "none"):
        return "none"
    if pretrained not in (True, "imagenet"):
        return pretrained
    if default_weights(name) == "none":
        raise ValueError(
            f"there are no ImageNet weights for {model_parts(name).backbone} to fetch by name; "
            "give a weight file, or none"
        )
    return "imagenet"


def load_pretrained(model: DeepLabV3, pretrained: str | Path | bool | None) -> list[str]:
    """Load "imagenet" (fetched if need be), a file, or nothing ("none") into ``model.backbone``.

    Returns lines on what was used, and on a license that restricts its use.
    """
    chosen = check_pretrained(model.name, pretrained)
    if chosen == "none":
        return []
    backbone_name = model_parts(model.name).backbone
    network, variant = BACKBONES[backbone_name]
    if chosen != "imagenet":
        lines = [load_backbone_weights(model, chosen)]
        if network.authors_license:
            lines.append(f"the authors' own files of this family are {network.authors_license}")
        return lines
    weights = variant.weights
    path = fetch(weights, backbone_name)
    lines = [load_backbone_weights(model, path, source=describe(weights))]
    if weights.license not in PERMISSIVE:
        lines.append(
            f"license of {describe(weights)}: {weights.license}, which is not permissive: read it "
            "before you use or pass on what you train from them"
        )
    return lines


def load_backbone_weights(model: DeepLabV3, path: str | Path, *, source: str | None = None) -> str:
    """Load a weight file into ``model.backbone`` and return one line saying what was used.

    A file is recognised by its keys: torchvision's, timm's, the authors' (build HRNet with
    ``backbone_args={"fuse_mode": "bilinear"}`` for their segmentation files, as those were
    trained), and checkpoints of a whole model, ours or the predecessor's. A missing tensor or
    another shape is a ValueError. ``source`` is what to call the file in messages.
    """
    source = source or str(path)
    backbone_name = model_parts(model.name).backbone
    network = BACKBONES[backbone_name].network
    content = read_file(path)
    if "mean" in content and "std" in content:  # a checkpoint of ours: what it was trained with
        model.set_normalization(content["mean"], content["std"])
    whole = state_of(content, source=source)
    state = backbone_part(whole)
    other_parts = len(whole) - len(state)
    classifier = [key for key in state if re.match(network.classifier_keys, key)]
    state = rename({k: v for k, v in state.items() if k not in set(classifier)}, network)
    wanted = model.backbone.state_dict()
    used = {key: value for key, value in state.items() if key in wanted}
    stages = {name for name, _ in model.backbone.named_children()}
    # What lies inside our stages but is not ours is of another variant: its function differs.
    strays = [key for key in state if key not in wanted and key.split(".")[0] in stages]
    problems = differences(wanted, used) + [f"{key} is extra" for key in strays]
    if problems:
        raise ValueError(f"{source} does not fit {backbone_name}: {summarise(problems, network)}")
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
    """Load a whole model's tensors, ours or the predecessor's; ``source`` names them in errors.

    ``finetune`` leaves the last layer as it is, so that the number of classes may differ. An
    auxiliary head is left out where the model has none, and stays as it is where the tensors have
    none. Tensors of another model or class count are a ValueError that says what they fit;
    ``classes_hint`` is what to do about another class count.
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
    reason = summarise(body_problems or problems, network)
    raise ValueError(f"{source} does not fit {this}, nor any other model: {reason}")


def predecessor_build_args(name: str, state: State) -> dict[str, object]:
    """How to build ``name`` so that a checkpoint of the predecessor predicts what it did there.

    Class count and separable convolutions are read off the tensors; its MobileNetV2 and
    HRNet compute something else on the same tensors. Its files do not say the output stride and
    ASPP rates.
    """
    network = BACKBONES[model_parts(name).backbone].network
    args: dict[str, object] = {
        "separable_conv": is_separable(state),
        "backbone_args": dict(network.predecessor_args),
    }
    if num_classes := num_classes_of(state):
        args["num_classes"] = num_classes
    return args


def merge_build_args(
    stored: Mapping[str, object], given: Mapping[str, object]
) -> dict[str, object]:
    """Build arguments of a checkpoint, replaced by the given ones that are not None."""
    merged = {**stored, **{key: value for key, value in given.items() if value is not None}}
    merged["backbone_args"] = {
        **(stored.get("backbone_args") or {}),
        **(given.get("backbone_args") or {}),
    }
    known = inspect.signature(build_model).parameters
    for key in merged:
        if key not in known or key == "name":
            raise ValueError(f"unknown build argument {key!r}; there are {', '.join(known)}")
    return merged


def load_checkpoint(
    path: str | Path,
    *,
    output_stride: int | None = None,
    name: str | None = None,
    build_args: Mapping[str, object] | None = None,
) -> DeepLabV3:
    """Read a checkpoint file and rebuild the model it holds; see `rebuild`."""
    return rebuild(
        read_file(path),
        source=str(path),
        output_stride=output_stride,
        name=name,
        build_args=build_args,
    )


def rebuild(
    content: Checkpoint,
    *,
    source: str,
    output_stride: int | None = None,
    name: str | None = None,
    build_args: Mapping[str, object] | None = None,
) -> DeepLabV3:
    """The model of a checkpoint that was read from `source`, in eval mode, on the CPU.

    The model gets the attributes ``class_names`` (tuple), ``palette`` (uint8 (256,3)) and
    ``normalize``. Its weights are the averaged ones, if the checkpoint has them; an auxiliary head
    is left out. ``output_stride`` and ``build_args``, where not None, go before what the
    checkpoint says. A checkpoint of the predecessor does not say what it holds: it needs ``name``,
    and has None for names and palette.
    """
    state = state_of(content, source=source)
    stored = content.get("model_name")
    if stored is None and name is None:
        fits = matching_models(state)
        hint = f" (it fits: {', '.join(fits)})" if fits else ""
        raise ValueError(f"{source} does not say which model it holds; give its name{hint}")
    if stored is not None and name not in (None, stored):
        raise ValueError(f"{source} holds {stored}, not {name}")
    args = predecessor_build_args(name, state) if stored is None else content.get("build_args", {})
    args = {**args, "aux_head": False}  # it serves training only
    given = {**(build_args or {}), **({"output_stride": output_stride} if output_stride else {})}
    model = build_model(stored or name, **merge_build_args(args, given))
    load_model_state(model, state, source=source)
    names, palette = content.get("class_names"), content.get("palette")
    model.class_names = None if names is None else tuple(names)
    model.palette = None if palette is None else palette.numpy()
    model.set_normalization(content.get("mean", model.mean), content.get("std", model.std))
    return model.eval()
