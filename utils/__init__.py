"""Losses, schedules, transforms, records; the names users of the predecessor import are here.

They are imported when they are first used, so that a part of `utils` brings only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loss import FocalLoss
    from .scheduler import PolyLR
    from .utils import Denormalize, denormalize, fix_bn, mkdir, set_bn_momentum
    from .visualizer import Visualizer

_MODULES = {
    "FocalLoss": "loss",
    "PolyLR": "scheduler",
    "Visualizer": "visualizer",
    **dict.fromkeys(("Denormalize", "denormalize", "fix_bn", "mkdir", "set_bn_momentum"), "utils"),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    if name in _MODULES.values():
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
