"""What models cost, as `python -m network.summary` counted and stored it in costs.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TypedDict

COSTS_FILE = Path(__file__).with_name("costs.json")


class Costs(TypedDict):
    """What the models of one backbone cost."""

    params: dict[str, int]  # of the backbone and of each architecture, with 21 classes
    flops: dict[str, dict[str, int]]  # by output stride: of the backbone and of each architecture


@cache
def stored_costs() -> dict[str, Costs]:
    """The costs by the name of the backbone."""
    return json.loads(COSTS_FILE.read_text()) if COSTS_FILE.exists() else {}
