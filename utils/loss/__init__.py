"""The losses of training, and the focal loss that users of the predecessor import."""

from .criterion import LOSSES, Criterion, create_criterion, parse_loss, uses
from .focal_loss import FocalLoss, read_class_weights

__all__ = [
    "LOSSES",
    "Criterion",
    "FocalLoss",
    "create_criterion",
    "parse_loss",
    "read_class_weights",
    "uses",
]
