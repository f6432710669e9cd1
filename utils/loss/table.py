"""The table of losses: to add a loss, write its function and enter it here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from .functions import cross_entropy_sum, dice_loss, focal_sum, lovasz_softmax_loss, ohem_loss


class Kind(Enum):
    """What a loss measures, and so which logits its function gets."""

    PIXELS = "a sum over pixels, of full-size logits, which come in bands of rows"
    SET = "one value for the set of all pixels, of full-size logits"
    BANDED_SET = "one value for the set of all pixels, of logits the function upsamples in bands"


@dataclass(frozen=True)
class Loss:
    """One loss: `function(logits, labels)` gives a scalar, to which ignored pixels add nothing.

    Each of `options` is the name of a command-line option, which the function takes as a keyword
    of that name; "class_weights" comes as a tensor (C,) or None. A function of Kind.PIXELS must
    take it, since its sum is divided by the class weights of the labeled pixels.
    """

    kind: Kind
    function: Callable[..., Tensor]
    options: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.kind is Kind.PIXELS and "class_weights" not in self.options:
            raise ValueError(f"{self.function.__name__}: a loss of pixels must take class_weights")


MAX_FACTOR = 1e6  # far beyond what works; it finds slips
LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(
        Kind.PIXELS, cross_entropy_sum, frozenset({"class_weights", "label_smoothing"})
    ),
    "focal_loss": Loss(
        Kind.PIXELS, focal_sum, frozenset({"class_weights", "focal_gamma", "focal_alpha"})
    ),
    "ohem": Loss(Kind.BANDED_SET, ohem_loss, frozenset({"class_weights", "label_smoothing"})),
    "dice": Loss(Kind.SET, dice_loss),
    "lovasz": Loss(Kind.SET, lovasz_softmax_loss),
}


def parse_loss(loss_type: str) -> dict[str, float]:
    """ "cross_entropy:1,dice:0.5" -> the factor of each loss; a name alone has factor 1."""
    factors: dict[str, float] = {}
    for part in loss_type.split(","):
        name, colon, text = part.strip().partition(":")
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {near[0]!r}? All" if near else "choose from"
            raise ValueError(f"unknown loss {name!r} in {loss_type!r}; {hint}: {', '.join(LOSSES)}")
        if name in factors:
            raise ValueError(f"{loss_type!r} names {name} twice; name each loss once")
        try:
            factors[name] = float(text) if colon else 1.0
        except ValueError:
            factors[name] = math.nan
        if not 0 < factors[name] <= MAX_FACTOR:
            raise ValueError(
                f"the factor of {name} in {loss_type!r} is {text!r}; "
                f"give a number above 0 and at most {MAX_FACTOR:g}, as in {name}:0.5"
            )
    return factors
