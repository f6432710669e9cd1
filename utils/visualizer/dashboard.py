"""Visdom's live dashboard, as a tracker and with the predecessor's methods."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from .history import NO_SCORES, replay
from .samples import ValidatedSample, rows_of_interest
from .sender import Sender, Window
from .sheets import sample_row
from .tables import html_table

if TYPE_CHECKING:  # Visdom is optional, and the sender's thread imports it
    from visdom import Visdom

MAX_POINTS = 2000  # sent of one curve; the server needs 10 ms for them
MAX_IMAGE_WIDTH = 1200  # pixels; wider images are shown smaller
# Training value -> (window, label of the y axis). All other values are scores and share a window.
WINDOWS = {
    "loss": ("Loss", "loss"),
    "validation loss": ("Validation loss", "loss"),
    "lr": ("Learning rate", "lr"),
    "images/s": ("Training speed", "images/s"),
    "data wait": ("Data wait", "share of the time"),
}
SCORES = ("Validation", "score")


def _curve(lines: Mapping[str, Mapping[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """x and y, each (N,) for one line or (N, K) for K lines; NaN where a line has no point."""
    steps = sorted(set().union(*lines.values()))
    if len(steps) > MAX_POINTS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)]
    values = [[line.get(step, math.nan) for line in lines.values()] for step in steps]
    y = np.array(values, dtype=float)
    y[~np.isfinite(y)] = math.nan  # Visdom sends NaN as null, but Inf in a form that is not JSON
    x = np.repeat(np.array(steps, dtype=float)[:, None], len(lines), axis=1)
    return (x[:, 0], y[:, 0]) if len(lines) == 1 else (x, y)


def _looks(title: str, lines: Sequence[str]) -> dict[str, object]:
    """Visdom's options of a plot: the title away from the buttons, the legend at the bottom."""
    layout: dict[str, object] = {"title": {"text": title, "x": 0.02, "font": {"size": 14}}}
    looks = {"title": title, "xlabel": "step", "markersize": 5, "marginright": 20, "margintop": 40}
    if len(lines) > 1:
        layout["legend"] = {"orientation": "h", "y": -0.25}
        looks |= {"legend": list(lines), "width": 520, "height": 460}
    return {**looks, "layoutopts": {"plotly": layout}}


class Visualizer:
    """The tracker that shows a run on a Visdom server on this machine.

    Without a server it prints one note. A server that starts later, or again, gets everything.

    Args:
        port: the server's port.
        env: Visdom's environment; give each run its own. "/" becomes "_".
        id: every window's name begins with "[id]".
        history: lines of the run's history (`history.read`) with which the curves begin.
    """

    def __init__(
        self,
        port: str | int = "13579",
        env: str = "main",
        id: str | None = None,
        *,
        history: Iterable[Mapping] = (),
    ) -> None:
        self.env, self.id = env.replace("/", "_"), id
        self._lines: dict[Window, dict[str, dict[float, float]]] = {}
        self._lock = threading.Lock()
        self._sender = Sender(int(port), self.env)
        replay(history, self)

    def _window(self, name: str, env: str | None = None) -> Window:
        return (env or self.env), (name if self.id is None else f"[{self.id}]{name}")

    def _add(self, name: str, line: str, points: Mapping[float, float], opts: Mapping) -> None:
        window = self._window(name)
        with self._lock:
            self._lines.setdefault(window, {}).setdefault(line, {}).update(points)

        def send(client: Visdom) -> str:
            with self._lock:
                lines = {line: dict(points) for line, points in self._lines[window].items()}
            x, y = _curve(lines)
            looks = {**_looks(window[1], list(lines)), "markers": len(x) <= 60, **opts}
            return client.line(y, x, win=window[1], env=window[0], opts=looks)

        self._sender.put(window, send)

    def _put_image(self, window: Window, load: Callable[[], np.ndarray], opts: Mapping) -> None:
        def send(client: Visdom) -> str:
            image = load()
            return client.image(image, win=window[1], env=window[0], opts=dict(opts))

        self._sender.put(window, send)

    def _put_table(self, name: str, rows: Sequence[Mapping], opts: Mapping) -> None:
        env, win = window = self._window(name)
        page = html_table(rows)
        num_columns = len(set().union(*rows))
        size = {"width": 160 + 100 * num_columns, "height": min(700, 84 + 24 * len(rows))}
        looks = {"title": win, **size, **opts}
        self._sender.put(
            window, lambda client: client.text(page, win=win, env=env, opts=dict(looks))
        )

    # The methods of the predecessor's Visualizer.

    def vis_scalar(
        self, name: str, x: ArrayLike, y: ArrayLike, opts: Mapping | None = None
    ) -> None:
        """Add one point, or a list of points, to the curve `name`."""
        xs, ys = np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist()
        self._add(name, name, dict(zip(xs, ys, strict=True)), opts or {})

    def vis_image(
        self, name: str, img: np.ndarray, env: str | None = None, opts: Mapping | None = None
    ) -> None:
        """Show an image, (3, H, W) or (H, W), as uint8 or as floats in 0..1."""
        window, image = self._window(name, env), np.array(img)
        self._put_image(window, lambda: image, {"title": window[1], **(opts or {})})

    def vis_table(self, name: str, tbl: Mapping, opts: Mapping | None = None) -> None:
        """Show named values as a table."""
        rows = [{"Term": term, "Value": value} for term, value in tbl.items()]
        self._put_table(name, rows, opts or {})

    # The methods of a tracker.

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add a point to the curve of each value; None leaves a gap."""
        for key, value in values.items():
            if key in NO_SCORES and key not in WINDOWS:
                continue
            name, label = WINDOWS.get(key, SCORES)
            self._add(name, key, {step: math.nan if value is None else value}, {"ylabel": label})

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show an image, (H, W, 3) uint8, as a JPEG at most 1200 pixels wide."""
        picture = Image.fromarray(np.ascontiguousarray(image))
        self._show(name, step, lambda: picture, {"jpgquality": 85})

    def figure(self, name: str, step: int, path: Path) -> None:
        """Show a PNG file, as it is at the time of sending."""
        self._show(name, step, lambda: Image.open(path).convert("RGB"), {})

    def _show(self, name: str, step: int, load: Callable[[], Image.Image], opts: Mapping) -> None:
        def pixels() -> np.ndarray:
            picture = load()
            if picture.width > MAX_IMAGE_WIDTH:
                height = max(1, round(picture.height * MAX_IMAGE_WIDTH / picture.width))
                picture = picture.resize((MAX_IMAGE_WIDTH, height))
            return np.asarray(picture).transpose(2, 0, 1)

        self._put_image(self._window(name), pixels, {"title": f"{name} (step {step})", **opts})

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Show rows as a table with a header; numbers are aligned right."""
        self._put_table(name, rows, {"title": f"{name} (step {step})"})

    def confusion(self, step: int, counts: np.ndarray, class_names: Sequence[str]) -> None:
        """Nothing yet: confusion.png in the folder of the run shows it."""

    def samples(
        self,
        step: int,
        samples: Sequence[ValidatedSample],
        class_names: Sequence[str],
        palette: np.ndarray,
    ) -> None:
        """Show two fixed samples, the worst and the best."""
        for number, sample in enumerate(rows_of_interest(samples)):
            self.image(f"sample {number}", step, sample_row(sample, palette))

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        """Show named values, such as the options, as text."""
        table = [{"name": key, "value": str(value)} for key, value in rows.items()]
        self._put_table(name, table, {"width": 560})

    def close(self, limit: float = 3.0) -> None:
        """Send what is not sent yet, for at most `limit` seconds."""
        self._sender.close(limit)
