"""How a joint transform is called: ours get a generator, other people's need not take one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

AnyTransform = Callable[..., tuple[Any, Any]]


def new_rng() -> np.random.Generator:
    """A generator seeded from torch's global one, which a DataLoader seeds in its processes."""
    return np.random.default_rng(int(torch.randint(1 << 62, ())))


class _Style(NamedTuple):
    """What the signature of a transform says."""

    rng: str | None = None  # how it takes the generator: "third", "keyword", or not at all
    arrays: bool = False  # whether its image is annotated as an array


def takes_pictures(transform: AnyTransform) -> bool:
    """Whether it asks for PIL pictures, as the predecessor's transforms do, and not for arrays.

    A transform of two arguments does, unless its image is annotated as `np.ndarray`.
    """
    own = getattr(transform, "takes_pictures", None)
    return own if isinstance(own, bool) else _style(transform) == _Style()


def call(
    transform: AnyTransform, image: Any, label: Any, rng: np.random.Generator
) -> tuple[Any, Any]:
    """`transform(image, label)`, with `rng` if it has a parameter of that name, or a third one."""
    how = _style(transform).rng
    if how == "third":
        return transform(image, label, rng)
    return transform(image, label, rng=rng) if how else transform(image, label)


def _style(transform: AnyTransform) -> _Style:
    try:
        return _read_style(transform)
    except TypeError:  # it has no hash
        return _read_style.__wrapped__(transform)


@lru_cache(maxsize=256)
def _read_style(transform: AnyTransform) -> _Style:
    function = transform.forward if isinstance(transform, nn.Module) else transform
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C do not tell
        return _Style()
    positional = [
        p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    arrays = bool(positional) and "ndarray" in str(positional[0].annotation).lower()
    if [p for p in positional[2:3] if p.default is p.empty or p.name == "rng"]:
        return _Style("third", arrays)
    return _Style("keyword" if "rng" in parameters else None, arrays)
