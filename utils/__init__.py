"""Losses, schedules, transforms, records; the names users of the predecessor import are here."""

from .loss import FocalLoss
from .scheduler import PolyLR
from .utils import Denormalize, denormalize, fix_bn, mkdir, set_bn_momentum
from .visualizer import Visualizer
