"""How an option is declared: a dataclass field that carries all that is known about it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
REQUIRED: Any = dataclasses.MISSING  # the default of an option that has to be given


@dataclass(frozen=True)
class Value:
    """What follows a flag: its name in the help; for numbers the bounds, which are allowed, too."""

    metavar: str
    low: float = -math.inf
    high: float = math.inf
    excluded: tuple[float, ...] = ()  # bounds that are not allowed themselves

    def allows(self, number: float) -> bool:
        """Whether `number` is within the bounds; NaN is not."""
        return self.low <= number <= self.high and number not in self.excluded

    def __str__(self) -> str:
        """The bounds in words: "at least 0 and below 1"."""
        low = "above" if self.low in self.excluded else "at least"
        high = "below" if self.high in self.excluded else "at most"
        return f"{low} {self.low:,} and {high} {self.high:,}"


FILE = Value("FILE")
FOLDER = Value("FOLDER")
NAME = Value("NAME")
DEVICE = Value("DEVICE")
GPU = Value("N")
# Upper bounds refuse inf and slips such as 1e9 for 1e-9: they are far beyond what works.
STEPS = Value("N", 1, 10**9)  # three years at ten steps a second
STEPS_OR_0 = Value("N", 0, 10**9)
IMAGES = Value("N", 1, 65_536)
# At output stride 32, BatchNorm needs 33 pixels. A label of the largest size has 256 MB.
SIDE = Value("SIZE", 33, 16_384)
TILE = Value("SIZE", 64, 16_384)  # as `network.inference` demands, whose tiles overlap
FACTOR = Value("FACTOR", 0, 1000)
SCALE = Value("SCALE", 0.1, 10)
RATE = Value("RATE", 0, 1e38)  # float32, in which the weights are, ends at 3.4e38
SHARE = Value("SHARE", 0, 1)
SHARE_BELOW_1 = Value("SHARE", 0, 1, excluded=(1,))

# What both programs say of options that both have.
FLIP = "also predict the mirrored images; the probabilities are averaged"
SCALES = "scales at which to predict the images; the probabilities are averaged"


def option(
    default: T,
    help: str,
    value: Value | None = None,
    *,
    choices: Sequence[str | int] | None = None,
    only_with: str | None = None,
    not_with: Sequence[str] = (),
    free_on_resume: bool = False,
    kept_on_resume: bool = False,
    starts_run: bool = False,
) -> T:
    """A dataclass field that is also a flag of its name and type; a tuple takes several values.

    A flag that takes a value states a `Value` or `choices`. A pair of values is a range, the
    smaller first; a `tuple[int, ...]` takes any number of them. `only_with` is the option without
    which this one has no effect, `not_with` are those beside which it has none: a name, or a name
    and values, as in "dataset voc or folder". `free_on_resume`: a resumed run may change it,
    because it does not change what is computed. `kept_on_resume`: where it is not given, a resumed
    run takes it from the checkpoint. `starts_run`: it says where a run starts, so the
    command that resumes the run leaves it out.
    """
    facts = {
        "help": help,
        "value": value,
        "choices": choices,
        "only_with": only_with,
        "not_with": not_with,
        "free_on_resume": free_on_resume or starts_run,
        "kept_on_resume": kept_on_resume,
        "starts_run": starts_run,
    }
    field: Any = dataclasses.field(default=default, metadata=facts)
    return field
