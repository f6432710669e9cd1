"""How an option is declared: a dataclass field that carries all that is known about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
REQUIRED: Any = dataclasses.MISSING  # the default of an option that has to be given


@dataclass(frozen=True)
class Value:
    """What follows a flag: its name in the help, and for numbers the bounds."""

    metavar: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def allows(self, number: float) -> bool:
        """Whether the number is within the bounds; NaN is within none."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """The bounds in words: `at least 0 and below 1`."""
        bounds = {
            "above": self.above,
            "at least": self.at_least,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{word} {at:,}" for word, at in bounds.items() if at is not None)


FILE = Value("FILE")
FOLDER = Value("FOLDER")
NAME = Value("NAME")
DEVICE = Value("DEVICE")
GPU = Value("N")
# Upper bounds refuse slips such as 1e9 for 1e-9, and inf. They are far beyond what works.
STEPS = Value("N", at_least=1, at_most=10**9)  # three years at ten steps a second
STEPS_OR_0 = Value("N", at_least=0, at_most=10**9)
IMAGES = Value("N", at_least=1, at_most=65_536)
# BatchNorm needs several values at output stride 32. A label of the largest size has 256 MB.
SIDE = Value("SIZE", at_least=33, at_most=16_384)
TILE = Value("SIZE", at_least=64, at_most=16_384)  # tiles overlap
FACTOR = Value("FACTOR", at_least=0, at_most=1000)
RATE = Value("RATE", at_least=0, at_most=1e38)  # the weights' float32 ends at 3.4e38
SHARE = Value("SHARE", at_least=0, at_most=1)
SHARE_BELOW_1 = Value("SHARE", at_least=0, below=1)


def option(
    default: T,
    help: str,
    value: Value | None = None,
    *,
    choices: Sequence[str | int] | None = None,
    only_with: str | None = None,
    not_with: Sequence[str] = (),
    free_on_resume: bool = False,
    starts_run: bool = False,
) -> T:
    """A dataclass field that is also a flag; its type, and how many values it has, are annotated.

    A flag that takes a value has either a `Value` or `choices`. Two values are a range, from the
    smaller to the larger.

    `only_with` is the option without which this one has no effect, `not_with` are those beside
    which it has none: a name, or a name and a value, as in "lr_policy step". `free_on_resume`: a
    resumed run may change it, because it does not change what the run computes. `starts_run`: it
    says where a run starts, so the command that resumes the run leaves it out.
    """
    facts = {
        "help": help,
        "value": value,
        "choices": choices,
        "only_with": only_with,
        "not_with": not_with,
        "free_on_resume": free_on_resume or starts_run,
        "starts_run": starts_run,
    }
    field: Any = dataclasses.field(default=default, metadata=facts)
    return field
