"""Finds a network's tensors in a file that was read, however the file wraps and names them.

Files keep tensors in dicts within dicts (`model_state`, `ema.module`), and below prefixes that
wrappers add (`module.`, `encoder.`). One rule finds them: a file's network is where most names are
known. Of equally good places, one of averaged weights goes first.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checkpoint import Checkpoint, State

UNUSED_COUNTER = "num_batches_tracked"  # old files lack it, and nothing depends on it
# Wrappers around a network or any part of it, and Paddle's names of BatchNorm's statistics.
WRAPPERS = r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}
AVERAGED = r"(?<![a-z])(ema|teacher|swa|averaged?)(?![a-z])"  # words in the name of a place
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_DEPTH = 3  # dicts within dicts
MAX_PREFIX = 6  # parts of a name that may come before the network's own
# torchvision's DeepLabV3 has the head's layers directly below `classifier`.
TORCHVISION_HEAD = r"classifier\.0\.convs\."
TORCHVISION_STRIDE = 8  # of all its segmentation models; their files do not say it


class Found(NamedTuple):
    """The tensors of one network in a file."""

    state: State  # by name, without what wrappers add; torch's `_metadata` stays with it
    place: str  # in the file: "model_state", "ema.module"
    names: list[str]  # of all tensors in that place
    averaged: bool  # by the name of the place, the weights are an average over training


def tensor_groups(content: Mapping[Any, Any]) -> dict[str, State]:
    """Every dict in a file that holds tensors, by its place: the keys on the way to it."""
    groups: dict[str, State] = {}
    waiting = [("", content, MAX_DEPTH)]  # a file can hold a dict within itself
    while waiting:
        place, found, depth = waiting.pop(0)
        state = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if state:
            groups[place] = _unwrapped(state, getattr(found, "_metadata", None))
        inner = [(k, v) for k, v in found.items() if isinstance(v, Mapping) and v is not content]
        if depth:
            waiting += [(f"{place}.{key}".lstrip("."), value, depth - 1) for key, value in inner]
    return groups


def _unwrapped(state: State, metadata: object) -> State:
    """The tensors without the names of wrappers, and the `_metadata` in the same way."""
    clean = OrderedDict[str, Tensor]()
    for name, value in state.items():
        *path, last = re.sub(WRAPPERS, "", name).split(".")
        clean[".".join([*path, STATISTICS.get(last, last)])] = value
    paths = metadata if isinstance(metadata, Mapping) else {}
    entries = {
        re.sub(WRAPPERS, "", f"{path}.")[:-1]: entry
        for path, entry in paths.items()
        if isinstance(entry, Mapping)
    }
    return with_metadata(clean, entries)


def with_metadata(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> State:
    """The tensors with this `_metadata`, which torch keeps as an attribute."""
    copy = OrderedDict(state)
    setattr(copy, "_metadata", dict(metadata))  # noqa: B010  # undeclared
    return copy


def metadata_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `_metadata` of tensors; empty where somebody made a new dict of them."""
    return getattr(state, "_metadata", {})


def find_state(
    content: Mapping[Any, Any],
    is_known: Callable[[str], bool],
    *,
    source: str,
    averaged: bool = True,
) -> Found:
    """The tensors below the prefix below which most names are known.

    If both are complete, averaged weights go first, or last with `averaged=False`. Where no name is
    known, the largest dict of tensors is returned as it is.
    """
    groups = tensor_groups(content)
    if not groups:
        raise ValueError(f"{source} holds no tensors; it is not a checkpoint or weight file")
    counts = Counter(
        (place, prefix)
        for place, state in groups.items()
        for name in state
        if not name.endswith(UNUSED_COUNTER)
        for prefix in _prefixes(name)
        if is_known(name.removeprefix(prefix))
    )
    if not counts:
        counts[max(groups, key=lambda place: len(groups[place])), ""] = 1
    most = max(counts.values())
    best = [found for found, count in counts.items() if count == most]
    place, prefix = min(best, key=lambda found: _is_average(*found) != averaged)
    state = {k.removeprefix(prefix): v for k, v in groups[place].items() if k.startswith(prefix)}
    below = {
        f"{path}.".removeprefix(prefix)[:-1]: entry
        for path, entry in metadata_of(groups[place]).items()
        if f"{path}.".startswith(prefix)
    }
    where = f"{place}.{prefix}".strip(".")
    found = with_metadata(state, below)
    return Found(found, where, list(groups[place]), _is_average(place, prefix))


def _prefixes(name: str) -> Iterator[str]:
    """What may come before a network's own name of a tensor: "", "net.", "net.encoder."."""
    parts = name.split(".")
    for number in range(min(len(parts), MAX_PREFIX + 1)):
        yield "".join(f"{part}." for part in parts[:number])


def _is_average(place: str, prefix: str) -> bool:
    return re.search(AVERAGED, f"{place}.{prefix}".lower()) is not None


def find_model(content: Checkpoint, *, source: str, averaged: bool = True) -> Found:
    """The tensors of a whole model, under the file's own names."""
    parts = re.compile(r"(backbone|classifier|aux_classifier)\.")
    return find_state(
        content, lambda name: parts.match(name) is not None, source=source, averaged=averaged
    )


def is_torchvisions(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of torchvision's DeepLabV3, under its names."""
    return any(re.match(TORCHVISION_HEAD, name) for name in state)


def state_of(content: Checkpoint, *, source: str, averaged: bool = True) -> State:
    """The tensors of a whole model in a file that was read, under our names.

    Averaged weights, if the file has them, since those were validated. To go on training, ask for
    the others by `averaged=False`.
    """
    state = find_model(content, source=source, averaged=averaged).state
    if not is_torchvisions(state):
        return state
    return {re.sub(r"^classifier\.", "classifier.classifier.", k): v for k, v in state.items()}


def has_average(content: Checkpoint) -> bool:
    """Whether a file holds averaged weights beside those that training goes on from."""
    return find_model(content, source="").averaged


def output_stride_of(content: Checkpoint) -> int | None:
    """The output stride that the file's network was trained with, if that is known."""
    if "model_name" in content:
        return content["build_args"]["output_stride"]
    found = is_torchvisions(find_model(content, source="").state)
    return TORCHVISION_STRIDE if found else None


def is_predecessor_file(content: Checkpoint) -> bool:
    """Whether a file that was read is a checkpoint of VainF/DeepLabV3Plus-Pytorch."""
    return "model_state" in content and "model_name" not in content


def value_problem(value: Tensor, *, floating: bool = False) -> str | None:
    """Why the values of a tensor can't be used, in words that follow its name.

    With `floating` they must be finite numbers of a floating type, as all weights are.
    """
    if value.is_meta:
        return "has no values"
    if value.layout is not torch.strided:
        return "is sparse; it must be dense"
    if floating and value.dtype not in FLOATING:
        return f"is {str(value.dtype).removeprefix('torch.')}; it must be floating point"
    if floating and not bool(value.isfinite().all()):
        return "holds NaN or infinite values"
    return None
