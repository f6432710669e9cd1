"""The record of a run: all that its folder holds, read again to show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import history
from .colors import rgb
from .samples import ValidatedSample, load_samples
from .trackers import Tracker


@dataclass(frozen=True)
class Record:
    """What a run left in its folder, also while it still runs."""

    folder: Path
    options: dict[str, Any]  # of options.json; an older run's lacks "classes" and "run"
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: str | Path) -> Record:
        """Read a run's folder.

        Raises FileNotFoundError if there is no run in it, ValueError if its files are damaged.
        """
        folder = Path(folder)
        lines = history.read(folder / "history.jsonl")
        if not lines:
            raise FileNotFoundError(
                f"no run in {folder}: it has no history.jsonl, or an empty one; give the folder "
                "<model>_<dataset>_os<N> in the run's --output_dir"
            )
        path = folder / "options.json"
        try:
            options = json.loads(path.read_bytes()) if path.exists() else {}
            _check(options)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it") from None
        return cls(folder, options, lines)

    @property
    def facts(self) -> dict[str, Any]:
        """When, where and with what the run began; empty for older runs."""
        return self.options.get("run", {})

    @property
    def title(self) -> str:
        """The run in a line: its name, and when it began."""
        name = self.facts.get("name") or self.folder.resolve().name
        started = str(self.facts.get("started", ""))[:16].replace("T", " ")
        return f"{name}, {started}" if started else str(name)

    @property
    def class_names(self) -> list[str]:
        """The names of the network's outputs; none before an older run's first validation."""
        if names := self.facts.get("class_names"):
            return names
        tables = history.tables(self.history, "classes").values()
        return next(([str(row.get("class")) for row in table["rows"]] for table in tables), [])

    @property
    def palette(self) -> np.ndarray:
        """The colors of the classes, (256, 3) uint8; gray where they are not known."""
        palette = np.full((256, 3), 128, np.uint8)
        for index, color in enumerate(self.facts.get("colors", [])[:256]):
            palette[index] = rgb(color)
        return palette

    def samples(self, step: int) -> list[ValidatedSample]:
        """The samples of a validation; none if they are not kept."""
        return load_samples(self.folder / "samples", step)

    def replay(self, tracker: Tracker) -> None:
        """Tell `tracker` all that the run told its own trackers, less the samples not kept."""
        tracker.text("options", self.options)
        history.replay(self.history, tracker)
        for step in history.kept_steps(self.history):
            if samples := self.samples(step):
                tracker.samples(step, samples, self.class_names, self.palette)


def _check(options: object) -> None:
    """ValueError unless the parts of options.json that views rely on are as a run writes them."""
    facts = options.get("run", {}) if isinstance(options, dict) else None
    if not isinstance(facts, dict):
        raise ValueError("it is not an object, or its entry `run` is not one")
    for name in ("class_names", "colors", "changed_options"):
        listed = facts.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ValueError(f"{name} is not a list of texts")
    for color in facts.get("colors", []):
        rgb(color)
