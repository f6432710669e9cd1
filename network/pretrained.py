"""How weight files and checkpoints are read, recognised, renamed and loaded.

Nothing is unpickled that could run code. A tensor that is missing or has another shape is an
error that names it; what a file holds beyond the model is reported.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .backbone import BACKBONES, Backbone
from .factory import MODELS, build_model, model_parts
from .utils import Normalize

State = dict[str, Tensor]
FORMAT = 1  # of our own checkpoints
CONTAINERS = ("model_state", "state_dict", "model")  # where files keep their tensors
LAST_LAYER = r"classifier\.classifier\.[34]\."  # of DeepLabV3+, at 3, and of DeepLabV3, at 4
UNUSED_COUNTER = "num_batches_tracked"  # old files lack it, and nothing is computed from it


def _numpy_globals() -> list[object]:
    """What a pickled NumPy number needs: the predecessor's checkpoints hold one (best_score)."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    return [*((scalar, name) for name in names), np.dtype, *(type(np.dtype(k)) for k in kinds)]


def read_file(path: str | Path) -> dict[str, object]:
    """Read a file saved by ``torch.save``, on the CPU, without running anything in it."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a checkpoint or weight file")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            warnings.simplefilter("ignore")  # the reader's doubts about files it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a file that is no checkpoint makes the reader raise
        if found := re.search(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)", str(error)):
            raise ValueError(
                f"{path} is refused: it asks for {found[1]}, which could run code; "
                "checkpoints may hold tensors and plain values only"
            ) from None
        raise ValueError(f"{path} is no checkpoint, or it is damaged or cut short") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    if "model_name" in content and content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {content.get('format')}; this version reads {FORMAT}"
        )
    return content


def state_of(content: Mapping[str, object], *, source: str) -> State:
    """The tensors of a file that was read, by name, without the prefixes wrappers add."""
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{source} holds no tensors; it is no checkpoint or weight file")
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_predecessor_file(content: Mapping[str, object]) -> bool:
    """Whether a file that was read is a checkpoint of VainF/DeepLabV3Plus-Pytorch."""
    return "model_state" in content and "model_name" not in content


def rename(state: State, network: type[Backbone], *, prefix: str = "") -> State:
    """Give the tensors below ``prefix`` the names the family uses."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(prefix):
            inner = key.removeprefix(prefix)
            for pattern, replacement in network.renames:
                inner = re.sub(pattern, replacement, inner)
            key = prefix + inner
        renamed[key] = value
    return renamed


def differences(wanted: Mapping[str, Tensor], state: State) -> list[str]:
    """What keeps ``state`` from fitting a model's tensors, a few words each."""
    found = [f"no tensor {k}" for k in wanted if k not in state and not k.endswith(UNUSED_COUNTER)]
    for key, value in state.items():
        if key not in wanted:
            found.append(f"{key} is extra")
        elif value.shape != wanted[key].shape:
            found.append(f"{key} is {tuple(value.shape)}, not {tuple(wanted[key].shape)}")
    return found


def load_backbone_weights(model: nn.Module, path: str | Path) -> str:
    """Load a weight file into ``model.backbone`` and return one line saying what was used.

    Recognised by their keys: torchvision's ResNet and MobileNetV2 files, timm's and the authors'
    HRNet classification files, the authors' HRNet segmentation files (build with
    ``backbone_args={"fuse_mode": "bilinear"}``, as they were trained), and checkpoints of a whole
    model, ours or the predecessor's. A missing tensor or another shape is a ValueError.
    """
    backbone_name = model_parts(model.name).backbone
    network = BACKBONES[backbone_name].network
    content = read_file(path)
    state = state_of(content, source=str(path))
    total = len(state)
    for prefix in ("model.", "backbone."):  # of the HRNet segmentation files; of whole models
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    other_parts = total - len(state)
    classifier = [key for key in state if re.match(network.classifier_keys, key)]
    state = rename({k: v for k, v in state.items() if k not in set(classifier)}, network)
    wanted = model.backbone.state_dict()
    used = {key: value for key, value in state.items() if key in wanted}
    problems = differences(wanted, used)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{path} does not fit {backbone_name}: {problems[0]}{more}")
    model.backbone.load_state_dict(used, strict=False)
    reasons = {
        "other parts of its model": other_parts,
        "its classifier": len(classifier),
        "unknown": len(state) - len(used),
    }
    left_out = [f"{count} ({reason})" for reason, count in reasons.items() if count]
    report = f"{path}: {len(used)} of {total} tensors used for {backbone_name}"
    report += f", left out: {', '.join(left_out)}" if left_out else ""
    trained_with = dict(network.predecessor_args) if is_predecessor_file(content) else {}
    if any(model.build_args["backbone_args"].get(k) != v for k, v in trained_with.items()):
        report += f"; they were trained with backbone_args={trained_with}"
    return report


def num_classes_of(state: State) -> int | None:
    """Number of classes of a whole model's tensors, or None where there is no classifier."""
    return next((len(v) for k, v in state.items() if re.fullmatch(LAST_LAYER + "bias", k)), None)


def is_separable(state: State) -> bool:
    """Whether the head's convolutions were converted by ``convert_to_separable_conv``."""
    return any(key.startswith("classifier.") and ".body.0." in key for key in state)


@cache
def _shapes_of(name: str, *, separable_conv: bool) -> State:
    """A model's tensors without the last layer's, on the meta device: shapes without memory."""
    with torch.device("meta"):
        state = build_model(name, separable_conv=separable_conv).state_dict()
    return without_last_layer(state)


def without_last_layer(state: State) -> State:
    """All but the tensors whose shape depends on the number of classes."""
    return {key: value for key, value in state.items() if not re.match(LAST_LAYER, key)}


def matching_models(state: State) -> list[str]:
    """Which models these tensors fit: ``deeplabv3plus_mobilenet (19 classes)`` and the like."""
    num_classes, separable = num_classes_of(state), is_separable(state)
    if num_classes is None:
        return []
    note = f"({num_classes} classes{', separable_conv' if separable else ''})"
    matches: list[str] = []
    misfits = set()  # backbones, which two models share
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


def load_model_state(model: nn.Module, state: State, *, source: str) -> None:
    """Load a whole model's tensors, ours or the predecessor's; ``source`` names them in errors.

    Tensors of another model or class count are a ValueError that says what they fit.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    network = BACKBONES[model_parts(model.name).backbone].network
    state = rename(state, network, prefix="backbone.")
    own = model.state_dict()
    problems = differences(own, state)
    if not problems:
        model.load_state_dict(state, strict=False)
        return
    theirs, ours = num_classes_of(state), num_classes_of(own)
    if theirs != ours and not differences(without_last_layer(own), without_last_layer(state)):
        raise ValueError(f"{source} has {theirs} classes, but {model.name} was built for {ours}")
    this = model.name + (" with separable_conv" if is_separable(own) else "")
    if matches := matching_models(state):
        raise ValueError(f"{source} does not fit {this}; it fits: {', '.join(matches)}")
    raise ValueError(
        f"{source} does not fit {this}, nor any other model: {problems[0]}"
        f" ({len(problems)} such tensors)"
    )


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
) -> nn.Module:
    """Rebuild the model a checkpoint holds, in eval mode, on the CPU.

    The model gets the attributes ``class_names`` (tuple), ``palette`` (uint8 (256,3)) and
    ``normalize``. ``output_stride`` and ``build_args``, where not None, go before what the
    checkpoint says. A checkpoint of the predecessor does not say what it holds: it needs ``name``,
    and has None for names and palette.
    """
    content = read_file(path)
    state = state_of(content, source=str(path))
    stored = content.get("model_name")
    if stored is None and name is None:
        fits = matching_models(state)
        hint = f" (it fits: {', '.join(fits)})" if fits else ""
        raise ValueError(f"{path} does not say which model it holds; give its name{hint}")
    if stored is not None and name not in (None, stored):
        raise ValueError(f"{path} holds {stored}, not {name}")
    args = predecessor_build_args(name, state) if stored is None else content.get("build_args", {})
    given = {**(build_args or {}), **({"output_stride": output_stride} if output_stride else {})}
    model = build_model(stored or name, **merge_build_args(args, given))
    load_model_state(model, state, source=str(path))
    names, palette = content.get("class_names"), content.get("palette")
    model.class_names = None if names is None else tuple(names)
    model.palette = None if palette is None else palette.numpy()
    model.mean = tuple(content.get("mean", model.mean))
    model.std = tuple(content.get("std", model.std))
    model.normalize = Normalize(model.mean, model.std)
    return model.eval()
