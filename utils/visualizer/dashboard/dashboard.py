"""Visdom's live dashboard, as a tracker and with the predecessor's methods."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.runtime.console import say, size_text
from utils.runtime.files import write_bytes

from ..history import SCORE
from ..samples import ValidatedSample, rows_of_interest
from ..trackers import Tracker
from . import windows
from .sender import DEFAULT_PORT, Message, Sender, port_option, url_of
from .windows import Points, SampleRows

MAX_POINTS = 2000  # sent of a curve; the server needs 10 ms for them
ENV_FILE = "visdom_env.txt"  # in a run's folder: the environment in which it is shown


def clean_env(name: str) -> str:
    """A name without the characters that Visdom's page, files or addresses can't have in one."""
    text = name.encode("utf-8", "replace").decode()  # paths may hold what is no text
    return re.sub(r"[\\/'\"<>&+?#%\x00-\x1f]", "_", text)[:150] or "main"


def env_of_run(folder: Path, *, given: str | None = None, start: str = "") -> str:
    """The run's environment: the given one, that which it had, or one named after it and its start.

    It is noted in the run's folder, so that a resumed run and `show` find it.
    """
    note = folder / ENV_FILE
    if given is None and note.exists():
        return clean_env(note.read_text(encoding="utf-8", errors="replace").strip())
    env = clean_env(given or f"{folder.name}_{start or time.strftime('%Y-%m-%d_%H%M%S')}")
    with suppress(OSError):  # such as a full disk; then the next one is another
        write_bytes(note, env.encode())
    return env


def thinned(points: Points) -> Points:
    """At most 2,000 points: the last one, and of those before it every second, third ..."""
    stride = max(1, -(-len(points) // (MAX_POINTS - 1)))
    return points[:-1:stride] + points[-1:]


# Each window of curves: what makes it, and the values of the history that it shows.
PLOTS: dict[str, tuple[Callable[..., Message], tuple[str, ...]]] = {
    "Loss": (windows.loss, ("loss", "validation loss")),
    "Validation": (windows.validation, (SCORE, "Overall Acc")),
    "Learning rate": (windows.learning_rate, ("lr", "lr backbone")),
    "Speed": (windows.speed, ("images/s", "data wait")),
}
# What the status shows of the newest values; None until there are some.
VALUES = dict.fromkeys(
    ("epoch", "time left", "wall time", "validation loss", "images/s", "data wait"), None
)
FACTS = ("started", "host", "device", "processes", "commit", "num_train", "num_val")


class Dashboard(Tracker):
    """The tracker that shows a run on a Visdom server on this machine.

    Without a server it prints one note. A server that starts later, or again, gets everything.

    Args:
        env: Visdom's environment, in which the run's windows are.
        folder: the run's folder; its name is the dashboard's heading.
        port: the server's port.
        sample_rows: how many samples will come, and their shape.
        tell_past: tells the new dashboard what is to be in it from the start.
    """

    def __init__(
        self,
        env: str,
        *,
        folder: Path,
        port: int = DEFAULT_PORT,
        sample_rows: SampleRows | None = None,
        tell_past: Callable[[Tracker], None] = lambda dashboard: None,
    ) -> None:
        self.env, self.folder, self.port = clean_env(env), folder, port
        self._curves: dict[str, Points] = {key: [] for _, keys in PLOTS.values() for key in keys}
        self._values: dict[str, float] = {}  # the newest ones of the history, and "step"
        self._best: tuple[int, float] | None = None
        self._scores: dict[str, float] = {}  # IoU of each class
        self._scores_before: dict[str, float] = {}
        self._options: Mapping[str, Any] = {}
        self._state = "training"
        self._jobs: dict[str, Callable[[], Message]] = {
            "Class IoU": partial(windows.class_iou, 0, {}, {}, {}),
            "Confusion": partial(windows.confusion, 0, np.zeros((0, 0), np.int64), []),
        }
        self._sender: Sender | None = None
        self._sample_rows = sample_rows or SampleRows()
        self.samples(0, [], [], np.zeros((256, 3), np.uint8))
        self._past, self._begin = 0.0, time.monotonic()
        tell_past(self)
        self._past = self._values.get("wall time", 0.0)  # seconds
        self._sender = Sender(port, self.env)
        self._show(*windows.LAYOUTS)  # all at once and in this order, which is that on the screen

    def _show(self, *titles: str, saves: bool = False) -> None:
        if self._sender is not None:
            for title in titles:
                self._sender.put((self.env, title), self._job(title), saves=saves)

    def _job(self, title: str) -> Callable[[], Message]:
        """What makes the window: from copies, since it is called in the sender's thread."""

        if title in PLOTS:
            make, keys = PLOTS[title]
            best = {"best": self._best} if title == "Validation" else {}
            return partial(make, *(thinned(self._curves[key]) for key in keys), **best)
        if title == "Status":
            return partial(windows.status, self._status(), thinned(self._curves["loss"]))
        if title == "Options":
            return partial(windows.page, title, self._option_tables())
        return self._jobs[title]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each value; NaN leaves a gap."""
        self._values |= {"wall time": self._wall_time(), **values, "step": step}
        for key in values.keys() & self._curves.keys():
            self._curves[key].append((step, values[key]))
        if SCORE in values:
            score, self._state = values[SCORE], "training"
            if math.isfinite(score) and (self._best is None or score > self._best[1]):
                self._best = (step, score)
            self._show("Loss", "Validation")
        else:
            interval, total = (self._options.get(k) for k in ("val_interval", "total_itrs"))
            validates = step == total or (interval and step % interval == 0)
            self._state = "validating" if validates else "training"
            self._show("Loss", "Learning rate", "Speed")
        self._show("Status")

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the IoU of each class, if these are the "classes"."""
        if name != "classes":
            return
        self._scores_before = self._scores
        self._scores = {
            str(row["class"]): math.nan if row["IoU"] is None else row["IoU"] for row in rows
        }
        facts = self._options.get("run", {})
        colors = dict(zip(facts.get("class_names", []), facts.get("colors", []), strict=False))
        scores = (self._scores, self._scores_before)
        self._jobs["Class IoU"] = partial(windows.class_iou, step, *scores, colors)
        self._show("Class IoU", saves=True)

    def confusion(self, step: int, counts: np.ndarray, class_names: Sequence[str]) -> None:
        """Show a validation's pixels, int64 (C, C), as a heat map."""
        self._jobs["Confusion"] = partial(windows.confusion, step, counts.copy(), class_names)
        self._show("Confusion", saves=True)

    def samples(
        self,
        step: int,
        samples: Sequence[ValidatedSample],
        class_names: Sequence[str],
        palette: np.ndarray,
    ) -> None:
        """Show two fixed samples, the worst and the best."""
        if self._sender is None and samples:  # the page is not open yet
            shape = samples[0].target.shape
            self._sample_rows = SampleRows(len(rows_of_interest(samples)), shape)
        content, rows = (samples, class_names, palette), self._sample_rows
        self._jobs["Samples"] = partial(windows.samples, *content, step=step, rows=rows)
        self._show("Samples", saves=True)

    def text(self, name: str, rows: Mapping[str, Any]) -> None:
        """Show the options, if they are these."""
        if name == "options":
            self._options = dict(rows)
            self._show("Status", "Options")

    def close(self) -> None:
        """As `finish`, for at most 5 seconds."""
        self.finish(limit=5.0)

    def finish(self, *, limit: float, unless_finished: str = "stopped") -> bool:
        """Send what is not sent yet, for at most `limit` seconds; whether the server has it all."""
        assert self._sender is not None
        is_over = self._values.get("step") == self._options.get("total_itrs")
        is_over = is_over or self._options.get("test_only", False)
        self._state = "finished" if is_over else unless_finished
        self._show("Status", saves=True)
        if self._sender.close(limit):
            say(f"dashboard: {url_of(self.port, self.env)}")
            return True
        command = shlex.join(["python", "-m", "utils.visualizer", "show", str(self.folder)])
        command += port_option(self.port)
        say(f"dashboard: the server did not get everything; send it with: {command}", error=True)
        return False

    def _wall_time(self) -> float:
        return self._past + time.monotonic() - self._begin

    def _status(self) -> dict[str, Any]:
        facts, peak = self._options.get("run", {}), self._values.get("peak memory")
        torch = f"torch {facts.get('versions', {}).get('torch', '?')}"
        about = (facts.get("started", "")[:16].replace("T", " "), facts.get("host"), torch)
        precision = f"{facts.get('device')}, {self._options.get('precision')}"
        return {
            "state": self._state,
            "title": self.folder.name,
            "about": " · ".join([*filter(None, about), precision]) if facts else "",
            "now": time.strftime("%Y-%m-%d %H:%M:%S"),
            "step": self._values.get("step", 0),
            "total": self._options.get("total_itrs"),
            "values": VALUES | self._values,
            "best": self._best,
            "miou": self._values.get(SCORE),
            "memory": size_text(peak) if peak else "–",
        }

    def _option_tables(self) -> dict[str, Any]:
        """What differs from the defaults, where the run takes place, and all options."""
        rows = {key: value for key, value in self._options.items() if key not in ("run", "command")}
        facts = self._options.get("run", {})
        place = {"command": self._options.get("command", ""), "folder": self.folder}
        place |= {key: facts[key] for key in FACTS if facts.get(key) is not None}
        place |= facts.get("versions", {})
        return {
            "changed": {key: rows[key] for key in facts.get("changed_options", ()) if key in rows},
            "facts": place,
            "all": rows,
            "resume": facts.get("resume_command", ""),
        }
