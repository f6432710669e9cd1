"""Loads published weights and checkpoints into models.

A missing tensor and one of another shape are errors that name it. A report says which tensors of a
file were left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._deeplab import DeepLabV3
from ..backbone import BACKBONES, Backbone
from ..factory import build_model, model_parts
from ..metadata import NOTE, noted_args, set_backbone_args
from .checkpoint import Checkpoint, State
from .contents import (
    Found,
    find_model,
    find_state,
    is_predecessor_file,
    metadata_of,
    output_stride_of,
    state_of,
    with_metadata,
)
from .files import read_file
from .predecessor import origin_line, predecessor_build_args
from .tensors import (
    AUX_HEAD,
    check_values,
    differences,
    has_aux_head,
    is_separable,
    matching_models,
    num_classes_of,
    rename,
    shaped,
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
    whole model, ours or another's. They also show whether the backbone was trained with other build
    arguments; it then computes with those, unless the model was built with some of its own. A
    missing tensor or another shape is a ValueError. Messages call the file `source`.
    """
    source = source or str(path)
    backbone_name = model_parts(model.name).backbone
    network = BACKBONES[backbone_name].network
    content = read_file(path)
    if "mean" in content and "std" in content:  # our own checkpoint
        model.set_normalization(content["mean"], content["std"])
    wanted = model.backbone.state_dict()
    found = find_state(content, lambda name: network.own_name(name) in wanted, source=source)
    classifier = [key for key in found.state if re.match(network.classifier_keys, key)]
    state = {key: value for key, value in found.state.items() if key not in set(classifier)}
    state = shaped(rename(state, network), wanted)
    used = {key: value for key, value in state.items() if key in wanted}
    stages = {name for name, _ in model.backbone.named_children()}
    # An extra tensor inside one of our stages is a sign of another variant.
    strays = [key for key in state if key not in wanted and key.split(".")[0] in stages]
    problems = differences(wanted, used) + [f"{key} is extra" for key in strays]
    if problems:
        if not used:
            theirs, ours = next(iter(found.state)), next(iter(wanted))
            problems = [f"it has none of its tensors, such as {ours}; it has {theirs} and others"]
        raise ValueError(f"{source} does not fit {backbone_name}: {summarize(problems, network)}")
    check_values(used, wanted, source=source)
    model.backbone.load_state_dict(used, strict=False)
    reasons = {
        "other parts of its model": len(found.names) - len(found.state),
        "its classifier": len(classifier),
        "unknown": len(state) - len(used),
    }
    left_out = [f"{count} ({reason})" for reason, count in reasons.items() if count]
    report = f"{source}: {len(used)} of {len(found.names)} tensors used for {backbone_name}"
    report += f", left out: {', '.join(left_out)}" if left_out else ""
    report += f"; they are averaged weights, {found.place} in the file" if found.averaged else ""
    return report + _adapt(model, _trained_with(content, found, network))


def _trained_with(
    content: Checkpoint, found: Found, network: type[Backbone]
) -> Mapping[str, object] | None:
    """The backbone's build arguments that a weight file tells, in one way or another."""
    if "model_name" in content:
        same = BACKBONES[model_parts(content["model_name"]).backbone].network is network
        return content["build_args"]["backbone_args"] if same else None
    metadata = metadata_of(find_model(content, source="").state)
    if NOTE in metadata.get("", {}) or is_predecessor_file(content):
        noted = noted_args(metadata, network)
        return network.predecessor_args if noted is None else noted
    told = (args for key, args in network.told_by if any(re.search(key, n) for n in found.names))
    return next(told, None)


def _adapt(model: DeepLabV3, args: Mapping[str, object] | None) -> str:
    """Let the backbone compute as its new weights were trained; returns the end of a report."""
    if args is None:
        return ""
    name, given = model_parts(model.name).backbone, model.build_args["backbone_args"]
    complete = BACKBONES[name].network.complete_args
    if complete(name, args) == complete(name, given):
        return ""
    line = f"; they were trained with backbone_args={dict(args)}"
    if given:
        return f"{line}, but the model was built with {given}"
    set_backbone_args(model, args)
    return f"{line}, and so the model now computes"


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
    own = model.state_dict()
    metadata = metadata_of(own)
    state = shaped(rename(state, network, prefix="backbone."), own)
    if has_aux_head(own) != has_aux_head(state):
        own, state = without_aux_head(own), without_aux_head(state)
    body = without_last_layer(state)
    body_problems = differences(without_last_layer(own), body)
    problems = body_problems if finetune else differences(own, state)
    if not problems:
        used = body if finetune else state
        check_values(used, own, source=source)
        # The model is built as it should be: these tensors say nothing else.
        model.load_state_dict(with_metadata(used, metadata), strict=False)
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
    if not any(re.match(r"classifier\.(classifier|aspp)\.", key) for key in state):
        reason += "; the file has no head of a DeepLab: --pretrained FILE takes its backbone alone"
    raise ValueError(f"{source} fits neither {this} nor any other model: {reason}")


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
        "output_stride": output_stride or output_stride_of(content),
    }
    if not stored and (line := origin_line(model_name, state)):
        print(line)
    model = build_model(model_name, **args)
    load_model_state(model, state, source=source)
    names, palette = content.get("class_names"), content.get("palette")
    model.class_names = None if names is None else tuple(names)
    model.palette = None if palette is None else palette.numpy()
    model.set_normalization(content.get("mean", model.mean), content.get("std", model.std))
    return model.eval()
