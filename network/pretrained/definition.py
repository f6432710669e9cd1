"""Checks a checkpoint that was read against its definition, so that nobody else has to.

The types are those of `Checkpoint`; lengths and ranges are here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

import torch
from torch import Tensor

from .._deeplab import BuildArgs
from .checkpoint import FORMAT, Checkpoint
from .contents import value_problem

TINY = 1e-6  # of a scale on which pixels are 0..1
MAX_CLASSES = 255  # labels are uint8, and 255 is ignored
CUDA_RNG_BYTES = 16
PALETTE_SHAPE = (256, 3)
Plain: TypeAlias = str | float | bool | None | list[str | float | bool | None]
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("cur_itrs", "best_itrs", "num_worse", "ema_updates"), (0, math.inf)),
    **dict.fromkeys(("num_threads", "num_train"), (1, math.inf)),
    **dict.fromkeys(("best_score", "bn_momentum"), (0, 1)),
}
WORDS = {dict: "a dict", list: "a list", str: "a text", bool: "True or False", Tensor: "a tensor"}
WORDS |= {float: "a number", int: "a whole number", type(None): "None"}


class ParamGroup(TypedDict):
    """Parameters of an optimizer that share settings; the settings are not read."""

    params: list[int]  # by number, as in `OptimizerState`


class OptimizerState(TypedDict):
    """What `Optimizer.state_dict()` gives."""

    state: dict[int, dict[str, Tensor | float | None]]  # by the number of the parameter
    param_groups: list[ParamGroup]


class ScalerState(TypedDict):
    """What `GradScaler.state_dict()` gives; nothing where it is not enabled."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    _growth_tracker: int


def check(content: Mapping[Any, Any], *, source: str) -> None:
    """Raise ValueError if a checkpoint, ours or the predecessor's, has values that can't be right.

    Other weight files are left as they are. Whether tensors fit a network, and are finite, shows
    when they are loaded.
    """
    ours = "model_name" in content
    if not ours and "cur_itrs" not in content:
        return
    written = content.get("format")
    if ours and not (isinstance(written, int) and written == FORMAT):
        raise ValueError(f"{source} has checkpoint format {written}; this version reads {FORMAT}")
    if ours and "build_args" not in content:
        raise ValueError(f"{source} says which model it holds, but not how to build it")
    for problem in _problems(content, ours=ours):
        raise ValueError(f"{source} is no valid checkpoint: {problem}")


def _problems(content: Mapping[Any, Any], *, ours: bool) -> Iterator[str]:
    """What is wrong, one after another; the types come first, for the rest relies on them."""
    yield from _misfits(content, Checkpoint, "")
    if "optimizer_state" in content:
        yield from _misfits(content["optimizer_state"], OptimizerState, "optimizer_state")
    if content.get("scaler_state"):
        yield from _misfits(content["scaler_state"], ScalerState, "scaler_state")
    yield from _misfits(content.get("options", {}), dict[str, Plain], "options")
    for name, (least, most) in RANGES.items():
        if name in content and not least <= content[name] <= most:
            limit = f"at least {least}" if most == math.inf else f"between {least} and {most}"
            yield f"{name} is {content[name]}; it must be {limit}"
    for number, state in enumerate(content.get("rng", ())):
        good = all(x.dtype == torch.uint8 and x.numel() == CUDA_RNG_BYTES for x in state["cuda"])
        try:
            torch.Generator().set_state(state["cpu"])
        except (RuntimeError, TypeError):
            good = False
        if not good:
            yield f"rng[{number}] is not the state of a random generator"
    for name, value in content.get("scaler_state", {}).items():
        if not value > 0 and name != "_growth_tracker":
            yield f"scaler_state.{name} is {value}; it must be above 0"
    if "ema_state" in content:
        average, present = (content.get(name, {}) for name in ("ema_state", "model_state"))
        if {k: v.shape for k, v in average.items()} != {k: v.shape for k, v in present.items()}:
            yield "the tensors of ema_state are not those of model_state"
        if "optimizer_state" in content and "ema_updates" not in content:
            yield "it has ema_state, but no ema_updates"
    if ours:
        yield from _problems_of_model(content)


def _problems_of_model(content: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with what our files say about the model."""
    args = content["build_args"]
    if unknown := args.keys() - BuildArgs.__annotations__.keys():
        yield f"build_args has an unknown entry {min(map(str, unknown))}"
    yield from _misfits(args.get("backbone_args", {}), dict[str, Plain], "backbone_args")
    num_classes = args["num_classes"]
    if not 1 <= num_classes <= MAX_CLASSES:
        yield f"num_classes is {num_classes}; it must be between 1 and {MAX_CLASSES}"
    lengths = {"class_names": num_classes, "mean": 3, "std": 3, "class_weights": num_classes}
    for name, length in lengths.items():
        if content.get(name) is not None and len(content[name]) != length:
            yield f"{name} has {len(content[name])} entries; it must have {length}"
    if not all(TINY <= value <= 1 / TINY for value in content.get("std", ())):
        yield f"std is {content['std']}; its values must be between {TINY:g} and {1 / TINY:g}"
    if not all(abs(value) <= 1 / TINY for value in content.get("mean", ())):
        yield f"mean is {content['mean']}; no value may be beyond {1 / TINY:g}"
    if not all(value >= 0 for value in content.get("class_weights") or ()):
        yield "class_weights has a negative weight"
    palette = content.get("palette", torch.empty(PALETTE_SHAPE, dtype=torch.uint8))
    if palette.shape != PALETTE_SHAPE or palette.dtype != torch.uint8:
        yield f"palette is {palette.dtype} {tuple(palette.shape)}, not uint8 {PALETTE_SHAPE}"


def _misfits(value: Any, hint: Any, name: str) -> Iterator[str]:
    """What in a value, called `name`, does not fit a type hint."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if hint in (Any, object):
        return
    if is_typeddict(hint):
        kind = dict
    elif kind not in WORDS:  # a union
        problems = [next(_misfits(value, option, name), None) for option in inner]
        if None not in problems:
            deeper = (p for p in problems if p and not p.startswith(f"{name} is "))
            yield next(deeper, _not_as_wanted(value, inner, name))
        return
    if kind in (int, float):
        number: Any = value  # an int may be too large to become a float
        fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        fits = fits and -1e300 < number < 1e300
    else:
        fits = isinstance(value, kind)
    if not fits:
        yield _not_as_wanted(value, (kind,), name)
    elif kind is Tensor and (problem := value_problem(value)):
        yield f"{name} {problem}"
    elif is_typeddict(hint):
        needed = {"num_classes", "output_stride"} if hint is BuildArgs else hint.__required_keys__
        for key, wanted in get_type_hints(hint).items():
            if key in value:
                yield from _misfits(value[key], wanted, f"{name}.{key}".lstrip("."))
            elif key in needed:
                yield f"{name} has no {key}"
    elif kind is dict:
        for key, entry in value.items():
            yield from _misfits(key, inner[0], f"a key of {name}")
            yield from _misfits(entry, inner[1], f"{name}[{key!r:.60}]")
    elif kind is list:
        for index, entry in enumerate(value):
            yield from _misfits(entry, inner[0], f"{name}[{index}]")


def _not_as_wanted(value: object, kinds: tuple[Any, ...], name: str) -> str:
    plain = isinstance(value, str | Real) or value is None
    shown = f"{value!r:.60}" if plain else f"a {type(value).__name__}"
    return f"{name} is {shown}; it must be {' or '.join(WORDS[get_origin(k) or k] for k in kinds)}"
