"""How a joint transform is called: ours get a generator, other people's need not take one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

AnyTransform = Callable[..., tuple[Any, Any]]

# Python 3.14 evaluates annotations when they are asked for, and the names in them may be missing.
AS_TEXT: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    AS_TEXT["annotation_format"] = import_module("annotationlib").Format.STRING


def new_rng() -> np.random.Generator:
    """A generator seeded from torch's global one, which a DataLoader seeds in its processes."""
    return np.random.default_rng(int(torch.randint(1 << 62, ())))


def call(
    transform: AnyTransform, image: Any, label: Any, rng: np.random.Generator
) -> tuple[Any, Any]:
    """`transform(image, label)`, with `rng` if it has a parameter of that name, or a third one."""
    how, _ = _signature(transform)
    if how == "third":
        return transform(image, label, rng)
    return transform(image, label, rng=rng) if how else transform(image, label)


def takes_pictures(transform: AnyTransform) -> bool:
    """Whether it asks for PIL pictures, not arrays: by the annotation of its first parameter.

    Without one, a transform of two arguments does, as those written for the predecessor do.
    """
    own = getattr(transform, "takes_pictures", None)
    how, annotation = _signature(transform)
    asks = "ndarray" not in annotation and (not how or "Image" in annotation)
    return own if isinstance(own, bool) else asks


def _signature(transform: AnyTransform) -> tuple[str, str]:
    """How it takes a generator, as "third", by "name" or not at all (""); its first annotation."""
    try:
        return _read_signature(transform)
    except TypeError:  # it has no hash
        return _read_signature.__wrapped__(transform)


@lru_cache(maxsize=256)
def _read_signature(transform: AnyTransform) -> tuple[str, str]:
    function = transform.forward if isinstance(transform, nn.Module) else transform
    try:
        parameters = inspect.signature(function, **AS_TEXT).parameters
    except (TypeError, ValueError):  # some functions written in C do not tell
        return "", ""
    named = [p for p in parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    annotation = str(named[0].annotation) if named else ""
    if any(p.default is p.empty or p.name == "rng" for p in named[2:3]):
        return "third", annotation
    return "name" if "rng" in parameters else "", annotation
