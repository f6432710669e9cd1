"""A training in a process of its own that ends by SIGKILL as planned; see test_kills.py."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

import main
from utils.visualizer import Progress

MOMENTS = ("write", "link", "replace", "replaced")  # of a save


@dataclass
class Plan:
    """When to die, and at the latest after `steps` steps; `mark` is written in mid-save."""

    mark: Path
    steps: int
    seconds: float | None = None  # after the first step
    moment: str = ""
    which: int = 1  # of the moments of this kind
    share: float = 0.0  # of the file that is written before


def die() -> NoReturn:
    """End at once: nothing here can catch or delay it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def run(plan: Plan | None, arguments: list[str], log: Path) -> None:
    """`main.py` with `arguments`, which dies by `plan`; for a new process."""
    torch.set_num_threads(1)
    with open(log, "wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if plan is not None:
        die_in_save(plan)
        die_in_training(plan)
    sys.exit(main.main(arguments))


def die_in_training(plan: Plan) -> None:
    """After the first step start the clock."""
    count, begun = Progress.count, []

    def counting(progress: Progress, num_images: int) -> None:
        count(progress, num_images)
        begun.append(progress.step)
        if len(begun) == 1 and plan.seconds is not None:
            threading.Timer(plan.seconds, die).start()
        if len(begun) == plan.steps:
            die()

    Progress.count = counting


def die_in_save(plan: Plan) -> None:
    """Die where a checkpoint is half written, or written and not yet in its place, or just so."""
    save, link, replace = torch.save, os.link, os.replace
    seen = dict.fromkeys(MOMENTS, 0)

    def maybe_die(moment: str) -> None:
        if has_come(moment):
            plan.mark.write_text("in mid-save")
            die()

    def has_come(moment: str) -> bool:
        seen[moment] += 1
        return plan.moment == moment and seen[moment] == plan.which

    def cut_save(state: dict, file: io.BufferedWriter) -> None:
        if plan.moment == "write" and seen["write"] + 1 == plan.which:
            content = io.BytesIO()
            save(state, content)
            file.write(content.getvalue()[: int(plan.share * content.tell())])
            file.flush()
        maybe_die("write")
        save(state, file)

    def cut_link(source: Path, target: Path) -> None:
        maybe_die("link")
        link(source, target)

    def cut_replace(source: Path, target: Path) -> None:
        if not str(target).endswith(".pth"):
            return replace(source, target)
        maybe_die("replace")
        replace(source, target)
        maybe_die("replaced")

    torch.save, os.link, os.replace = cut_save, cut_link, cut_replace
