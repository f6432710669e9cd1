"""How the report words its values; nothing in it tells where on a machine files are."""

from __future__ import annotations

import math
import re
import shlex
from datetime import timedelta

DASH = "–"


def without_paths(text: str) -> str:
    """A word, such as the value of an option, in which absolute paths lost their folders."""

    def last(found: re.Match[str]) -> str:
        name = re.split(r"[\\/]", found[2].rstrip("\\/"))[-1]
        return f"{found[1]}.../{name}"

    return re.sub(r"(^|[=@:,])((?:[A-Za-z]:)?[\\/~][^=@,]*)", last, text)


def command_text(command: str) -> str:
    """A command without absolute paths."""
    try:
        words = shlex.split(command)
    except ValueError:  # not ours
        words = command.split()
    return " ".join(shlex.quote(word) for word in map(without_paths, words))


def value_text(value: object) -> str:
    """The value of an option."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return DASH
    if isinstance(value, list):
        return " ".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else without_paths(str(value))


def score_text(value: float | None) -> str:
    """A score with three decimals."""
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def time_text(seconds: float) -> str:
    """A time as 1:02:03; from a day on as `2 days, 1:02:03`."""
    return DASH if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))
