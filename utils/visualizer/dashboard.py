"""Visdom's live dashboard, as a tracker and with the predecessor's methods."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .sender import Sender, Window
from .tables import html_table

if TYPE_CHECKING:  # Visdom is optional: the sender's thread imports it
    from visdom import Visdom

MAX_POINTS = 2000  # of a curve that are sent; a server needs 10 ms for these
MAX_IMAGE_WIDTH = 1200  # pixels; wider images are shown smaller
# Training value -> (window, label of the y axis); all others are scores, lines of one window.
WINDOWS = {
    "loss": ("Loss", "loss"),
    "validation loss": ("Validation loss", "loss"),
    "lr": ("Learning rate", "lr"),
    "images/s": ("Training speed", "images/s"),
    "data wait": ("Data wait", "share of the time"),
}
SCORES = ("Validation", "score")


def _curve(lines: Mapping[str, Mapping[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Points (N,) of one line, or (N, K) of K lines on common steps, NaN where one has none."""
    steps = sorted(set().union(*lines.values()))
    if len(steps) > MAX_POINTS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)]
    values = [[line.get(step, math.nan) for line in lines.values()] for step in steps]
    y = np.array(values, dtype=float)
    y[~np.isfinite(y)] = math.nan  # Visdom sends NaN as null, but Inf as what is no JSON
    x = np.repeat(np.array(steps, dtype=float)[:, None], len(lines), axis=1)
    return (x[:, 0], y[:, 0]) if len(lines) == 1 else (x, y)


def _looks(title: str, lines: Sequence[str]) -> dict[str, object]:
    """Visdom's options of a plot: the title left of plotly's buttons, the legend below the plot."""
    layout: dict[str, object] = {"title": {"text": title, "x": 0.02, "font": {"size": 14}}}
    looks = {"title": title, "xlabel": "step", "markersize": 5, "marginright": 20, "margintop": 40}
    if len(lines) > 1:
        layout["legend"] = {"orientation": "h", "y": -0.25}
        looks |= {"legend": list(lines), "width": 520, "height": 460}
    return {**looks, "layoutopts": {"plotly": layout}}


class Visualizer:
    """The tracker of a Visdom server on this machine; without one it says so once and rests.

    Args:
        port: of the server; one that comes later or is restarted gets everything.
        env: Visdom's environment; give each run its own. "/" becomes "_".
        id: put before the name of every window, as "[id]".
        history: lines of the history (`utils.history.read`) that the curves begin with.
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
        for entry in history:
            if "table" in entry:
                self.table(entry["table"], entry["step"], entry["rows"])
            else:
                self.scalars(entry["step"], {k: v for k, v in entry.items() if k != "step"})

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

    # What the predecessor's users call.

    def vis_scalar(self, name: str, x: object, y: object, opts: Mapping | None = None) -> None:
        """Add one point, or lists of points, to the curve ``name``."""
        xs, ys = np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist()
        self._add(name, name, dict(zip(xs, ys, strict=True)), opts or {})

    def vis_image(
        self, name: str, img: np.ndarray, env: str | None = None, opts: Mapping | None = None
    ) -> None:
        """Show an image (3, H, W) or (H, W): uint8, or float 0..1."""
        window, image = self._window(name, env), np.array(img)
        self._put_image(window, lambda: image, {"title": window[1], **(opts or {})})

    def vis_table(self, name: str, tbl: Mapping, opts: Mapping | None = None) -> None:
        """Show named values as a table."""
        rows = [{"Term": term, "Value": value} for term, value in tbl.items()]
        self._put_table(name, rows, opts or {})

    # The tracker.

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each value's curve; None is a gap."""
        for key, value in values.items():
            name, label = WINDOWS.get(key, SCORES)
            self._add(name, key, {step: math.nan if value is None else value}, {"ylabel": label})

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show an image (H, W, 3) uint8, at most 1200 pixels wide, as JPEG."""
        picture = Image.fromarray(np.ascontiguousarray(image))
        self._show(name, step, lambda: picture, {"jpgquality": 85})

    def figure(self, name: str, step: int, path: Path) -> None:
        """Show a PNG file as it is when it is sent."""
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
        """Show the rows as a table with a heading; numbers stand to the right."""
        self._put_table(name, rows, {"title": f"{name} (step {step})"})

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        """Show named values as they are written, such as the options."""
        table = [{"name": key, "value": str(value)} for key, value in rows.items()]
        self._put_table(name, table, {"width": 560})

    def close(self, limit: float = 3.0) -> None:
        """Send what is left, for at most ``limit`` seconds."""
        self._sender.close(limit)
