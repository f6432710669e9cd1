"""The Markdown file that a run fills row by row, and the time it may take."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from utils.runtime import environment


class Sheet:
    """Appends to a Markdown file, and prints the same; what is finished stands there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, text: str = "") -> None:
        """Append one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)

    def row(self, cells: Sequence[str]) -> None:
        """A row of a table."""
        self.say(
            "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"
        )

    def table(self, header: str) -> None:
        """Begin a table whose columns are "one|two|three"."""
        self.say()
        self.row(header.split("|"))
        self.row(["---"] * len(header.split("|")))


class Deadline:
    """When a part must end."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self._end = minutes, time.monotonic() + 60 * minutes

    def left(self) -> float:
        """The seconds that are left; negative when there are none."""
        return self._end - time.monotonic()


def machine(device: torch.device) -> str:
    """The device, the software and the commit, in one line."""
    facts = [environment.device_name(device), f"Python {platform.python_version()}"]
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        facts += [f"{memory / 2**30:.0f} GiB", f"CUDA {torch.version.cuda}"]
        facts.append(f"cuDNN {torch.backends.cudnn.version()}")
    facts += [
        f"torch {torch.__version__}",
        f"{torch.get_num_threads()} threads",
        f"commit {environment.commit()}",
    ]
    return ", ".join(facts)
