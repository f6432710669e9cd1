"""DeepLabV3 and DeepLabV3+ with a backbone of your choice."""

from __future__ import annotations

from . import factory, modeling, pretrained
from ._deeplab import DeepLabV3, convert_to_separable_conv
from .factory import MODELS
from .modeling import create_model
from .pretrained import default_weights, load_checkpoint
from .utils import Normalize


def resolve_output_stride(name: str, output_stride: int | None) -> int:
    """The output stride the model will have; what can't be built is a ValueError.

    HRNet has 4 whatever is asked, which is said in a warning.
    """
    return factory.resolve_output_stride(factory.model_parts(name).backbone, output_stride)


def list_models() -> list[str]:
    """Names for ``create_model``, which are those of the functions in ``network.modeling``."""
    return list(MODELS)


__all__ = [
    "DeepLabV3",
    "Normalize",
    "convert_to_separable_conv",
    "create_model",
    "default_weights",
    "list_models",
    "load_checkpoint",
    "modeling",
    "pretrained",
    "resolve_output_stride",
]
