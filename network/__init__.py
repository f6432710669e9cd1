"""DeepLabV3 and DeepLabV3+ with a backbone of your choice."""

from __future__ import annotations

from . import backbone, factory, modeling, pretrained
from ._deeplab import DeepLabV3, convert_to_separable_conv
from .factory import MODELS
from .modeling import create_model
from .pretrained import default_weights, load_checkpoint
from .utils import Normalize


def resolve_output_stride(name: str, output_stride: int | None) -> int:
    """The output stride that the model will have; an impossible one is a ValueError.

    HRNet always has 4; where another was asked for, a warning says so.
    """
    return backbone.resolve_output_stride(factory.model_parts(name).backbone, output_stride)


def list_models() -> list[str]:
    """The names that `create_model` takes; `network.modeling` has a function of each name."""
    return list(MODELS)
