"""DeepLabV3 and DeepLabV3+ with a backbone of your choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import backbone, factory, modeling, pretrained
from ._deeplab import convert_to_separable_conv
from .create import create_model
from .factory import MODELS
from .modeling import *  # noqa: F403
from .pretrained import default_weights, load_checkpoint
from .utils import Normalize

if TYPE_CHECKING:
    from .modeling import __getattr__ as __getattr__


def resolve_output_stride(name: str, output_stride: int | None) -> int:
    """The output stride that the model will have; an impossible one is a ValueError.

    HRNet always has 4; where another was asked for, a warning says so.
    """
    return backbone.resolve_output_stride(factory.model_parts(name).backbone, output_stride)


def list_models() -> list[str]:
    """The names that `create_model` takes; `network.modeling` has a function of each name."""
    return list(MODELS)
