"""The dashboard's windows, made from plain values as a Visdom server takes them.

layouts.json has them in reading order, with their sizes in pixels and plotly's layouts: Visdom
places windows from left to right in the order of their creation, on a screen of 1600 pixels in
three columns. templates/ has the pages of those that hold text.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.runtime.console import shortened
from utils.utils import IGNORE_INDEX

from ..colors import BEST, HEAT, REST, TRAIN, VALIDATION, hex_color
from ..figures import needs_log, occurring, smooth
from ..pictures import IGNORED, data_uri
from ..samples import ValidatedSample, panels, rows_of_interest
from .sender import Message

if TYPE_CHECKING:  # only a dashboard needs it
    from jinja2 import Template

Points = list[tuple[int, float]]  # step and value

FOLDER = Path(__file__).parent
LAYOUTS: dict[str, Any] = json.loads((FOLDER / "layouts.json").read_text(encoding="utf-8"))
BASE = LAYOUTS.pop("")
FAINT = "rgba(0,114,178,0.28)"
LONGEST_NAME = 24  # characters
PANEL_WIDTH, MAX_PANEL_HEIGHT = 374, 282


def escaped(text: str) -> str:
    """Text as plotly shows it: without tags, and without a formula between two $."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def short_names(names: Iterable[str]) -> list[str]:
    """Escaped names of at most 24 characters."""
    return [escaped(shortened(name, LONGEST_NAME)) for name in names]


def plot(
    title: str, traces: Sequence[Mapping[str, Any]], *, heading: str = "", note: str = ""
) -> Message:
    """A plot of plotly's traces. `note` stands in the middle of one without points."""
    layout = {**BASE, **LAYOUTS[title]}
    size = {side: layout.pop(side) for side in ("width", "height")}
    for axis in ("xaxis", "yaxis"):
        layout[axis] = {**BASE[axis], **layout[axis]}
    text = {"text": f"<b>{heading or title}</b>", "font": {"size": 14}}
    layout["title"] = {**text, "x": 0.02, "xanchor": "left", "y": 0.95}
    if note:
        center = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
        layout["annotations"] = [{**center, "text": note, "font": {"color": REST, "size": 14}}]
    return {"data": list(traces), "layout": layout, "opts": {"title": title, **size}}


def line(
    name: str, points: Points, color: str, *, width: float = 2.0, dash: str = "solid"
) -> dict[str, Any]:
    """A curve; of few points each is marked, so that one between gaps is seen."""
    return {
        "type": "scatter",
        "name": name,
        "x": [step for step, _ in points],
        "y": [value if math.isfinite(value) else None for _, value in points],
        "mode": "lines+markers" if len(points) <= 60 else "lines",
        # The button "smooth lines" of Visdom's plots wants a marker with a line.
        "marker": {"color": color, "size": 5, "line": {"width": 0}},
        "line": {"color": color, "width": width, "dash": dash},
    }


def smoothed(points: Points) -> Points:
    """The points with their values smoothed."""
    values = smooth([value for _, value in points])
    return list(zip([step for step, _ in points], values.tolist(), strict=True))


def loss(train: Points, validation: Points) -> Message:
    """Losses in one plot: of the training, faint and smoothed, and of the validation."""
    window = plot(
        "Loss",
        [
            line("train", train, FAINT, width=1),
            line("train, smoothed", smoothed(train), TRAIN),
            line("validation", validation, VALIDATION),
        ],
        note="" if train or validation else "no values yet",
    )
    if needs_log(value for _, value in [*train, *validation]):
        window["layout"]["yaxis"]["type"] = "log"
    return window


def validation(miou: Points, accuracy: Points, *, best: tuple[int, float] | None) -> Message:
    """Mean IoU with its best marked, and pixel accuracy."""
    star = line("best", [] if best is None else [best], BEST) | {
        "mode": "markers+text",
        "marker": {"symbol": "star", "size": 14, "color": BEST},
        "text": [] if best is None else [f"{best[1]:.3f}"],
        "textposition": "bottom center",
        "textfont": {"color": BEST, "size": 13},
        "cliponaxis": False,
    }
    traces = [
        line("mIoU", miou, TRAIN, width=2.4),
        line("pixel accuracy", accuracy, REST, width=1.5, dash="dot"),
        star,
    ]
    return plot("Validation", traces, note="" if miou else "after the first validation")


def class_iou(
    step: int, scores: Mapping[str, float], before: Mapping[str, float], colors: Mapping[str, str]
) -> Message:
    """IoU of the classes as bars, best on top, with the change since `before`; NaN is absent."""
    names = sorted((n for n in scores if math.isfinite(scores[n])), key=lambda n: scores[n])
    bars = {
        "type": "bar",
        "name": "IoU",
        "orientation": "h",
        "x": [scores[name] for name in names],
        "y": short_names(names),
        "text": [f"{scores[n]:.3f}{_change(scores[n] - before.get(n, math.nan))}" for n in names],
        "textposition": "outside",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "marker": {
            "color": [colors.get(name, TRAIN) for name in names],
            "line": {"color": "#999", "width": 0.5},
        },
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    absent = f", {len(scores) - len(names)} absent" if len(names) < len(scores) else ""
    heading = f"Class IoU at step {step:,} (change){absent}" if scores else ""
    note = "" if scores else "after the first validation"
    return plot("Class IoU", [bars], heading=heading, note=note)


def _change(difference: float) -> str:
    if not math.isfinite(difference):
        return ""
    color = REST if abs(difference) < 0.0005 else BEST if difference > 0 else VALIDATION
    return f"  <span style='color:{color}'>{difference:+.3f}</span>"


def confusion(step: int, counts: np.ndarray, class_names: Sequence[str]) -> Message:
    """Percent of each class's pixels by prediction; row 0 on top, only what occurs."""
    rows, columns, percent = occurring(counts)
    heat = {
        "type": "heatmap",
        "name": "confusion",
        "x": short_names(class_names[i] for i in columns),
        "y": short_names(class_names[i] for i in rows),
        "z": percent.round(2).tolist(),
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[i / (len(HEAT) - 1), color] for i, color in enumerate(HEAT)],
        "colorbar": {"ticksuffix": " %", "thickness": 10, "outlinewidth": 0},
        "customdata": counts[np.ix_(rows, columns)].tolist(),
        "hovertemplate": "%{y}, predicted as %{x}: %{z:.1f} % (%{customdata:,} pixels)"
        "<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    if len(columns) <= 24:  # else the numbers have no room
        heat["text"] = [
            [f"{value:.0f}" if value >= 0.5 else "" for value in row] for row in percent
        ]
        heat["texttemplate"] = "%{text}"
    heading = f"Confusion at step {step:,}, in % of the true class's pixels" if len(rows) else ""
    note = "" if len(rows) else "after the first validation"
    return plot("Confusion", [heat], heading=heading, note=note)


def learning_rate(head: Points, backbone: Points) -> Message:
    """Learning rates of head and backbone."""
    traces = [line("head", head, TRAIN), line("backbone", backbone, VALIDATION, dash="dash")]
    return plot("Learning rate", traces, note="" if head else "no values yet")


def speed(images_per_second: Points, data_wait: Points) -> Message:
    """Images a second, and the share of the time in which training waited for data."""
    percent = [(step, 100 * share) for step, share in data_wait]
    wait = line("data wait, %", percent, VALIDATION, width=1.5) | {"yaxis": "y2"}
    traces = [line("images/s", images_per_second, TRAIN, width=1.5), wait]
    return plot("Speed", traces, note="" if images_per_second else "no values yet")


def status(values: Mapping[str, Any], train: Points) -> Message:
    """How the run stands; `values` are those of status.html less the smoothed training loss."""
    last = smoothed(train)[-1:]
    return page("Status", {**values, "loss": last[0][1] if last else None})


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(FOLDER / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)


def page(title: str, values: Mapping[str, Any], *, template: str = "") -> Message:
    """A window of text: a template filled with values, all of which it escapes."""
    content = _template(template or f"{title.lower()}.html").render(values)
    return {
        "data": [{"type": "text", "content": content}],
        "opts": {"title": title, **LAYOUTS.get(title, {})},
    }


@dataclass(frozen=True)
class SampleRows:
    """Size of the window of samples: a page that is open never changes that of a window."""

    number: int = 4
    shape: tuple[int, ...] = (3, 4)  # of an image: height, width, in any unit

    @property
    def height(self) -> int:
        """Of a panel, in pixels."""
        return min(MAX_PANEL_HEIGHT, round(self.shape[0] * PANEL_WIDTH / self.shape[1]))


def samples(
    found: Sequence[ValidatedSample],
    class_names: Sequence[str],
    palette: np.ndarray,
    *,
    step: int,
    rows: SampleRows,
) -> Message:
    """A legend, and at most four rows of image, target, prediction and error."""
    shown = rows_of_interest(found)
    ids = set().union(*(np.unique([s.target, s.prediction]).tolist() for s in shown))
    legend = [(class_names[i], hex_color(palette[i])) for i in sorted(ids - {IGNORE_INDEX})]
    legend += [(IGNORED, "#ffffff")] * any((s.target == IGNORE_INDEX).any() for s in shown)
    scores = [s.miou for s in shown if math.isfinite(s.miou)]
    values = {
        "step": step,
        "legend": legend,
        "rows": [(s, _sources(s, palette)) for s in shown],
        "height": rows.height,
        "width": PANEL_WIDTH,
        "worst": min(scores, default=None),
        "best": max(scores, default=None),
    }
    window = page("Samples", values)
    # In the legend, a name takes about 7 pixels a character, and its color 36.
    lines = math.ceil(sum(7 * len(name) + 36 for name in [*class_names, IGNORED]) / 1500)
    window["opts"]["height"] += 18 * min(lines, 3) + rows.number * (rows.height + 24)
    return window


def _sources(sample: ValidatedSample, palette: np.ndarray) -> list[tuple[str, str]]:
    """Title and address of each panel of a row."""
    small = panels(sample.scaled(PANEL_WIDTH), palette)
    return [(title, data_uri(panel, "JPEG", quality=85)) for title, panel in small]
