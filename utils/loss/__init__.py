"""The losses of training, and the focal loss that users of the predecessor import."""

from .criterion import Criterion
from .focal_loss import FocalLoss
from .table import LOSSES, parse_loss
