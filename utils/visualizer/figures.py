"""Figures of a run: the curves and the confusion matrix."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.runtime.console import shortened
from utils.runtime.files import write_bytes

from . import colors
from .history import SCORE, best_validation, series

if TYPE_CHECKING:  # matplotlib is slow to import, so it is imported where it draws
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

DPI = 100  # a point of a font size is then 1.4 pixels, so that the sizes below are legible
SHOWN_RATES = (("lr", "head", colors.TRAIN), ("lr backbone", "backbone", colors.REST))
FEW = 20  # points of a curve that need no smoothing
SHOWN_SCORES = (  # key, label, color, line
    (SCORE, "mean IoU", colors.TRAIN, "-"),
    ("Overall Acc", "pixel accuracy", colors.REST, ":"),
)


def _new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_bytes(path, buffer.getvalue())


def smooth(values: Sequence[float], *, span: float | None = None) -> np.ndarray:
    """Exponential moving average over about `span` values; others than finite ones become NaN.

    By default it is over a thirtieth of the values, and at least five.
    """
    decay = 1 - 2 / ((span or max(5, len(values) / 30)) + 1)
    total = weight = 0.0
    result = np.full(len(values), math.nan)
    for index, value in enumerate(values):
        if math.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1
            result[index] = total / weight  # without the weight, the curve would begin near zero
    return result


def needs_log(values: Iterable[float]) -> bool:
    """Whether a linear axis would show little of the values but a peak, mostly an early one."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 50 * min(finite)


def save_curves(history: Sequence[Mapping], path: str | Path, *, title: str = "") -> None:
    """Plot losses, validation scores and learning rates over the steps, as a PNG of 1000 x 1000.

    `title` names the run.
    """
    figure = _new_figure(10, 10)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.15)
    title_text = figure.suptitle(
        shortened(title, 90), fontsize=11, color=colors.REST, x=0.02, ha="left"
    )
    title_text.set_parse_math(False)
    loss_axes, score_axes, lr_axes = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (4, 4, 2)}
    )
    _draw_loss(loss_axes, history)
    _draw_scores(score_axes, history)
    _draw_rates(lr_axes, history)
    for axes, name in ((loss_axes, "Loss"), (score_axes, "Validation"), (lr_axes, "Learning rate")):
        _finish(axes, name)
    last = max((entry["step"] for entry in history), default=0)
    lr_axes.set_xlim(0, max(last, 1) * 1.02)
    lr_axes.set_xlabel("step", fontsize=11)
    _save(figure, Path(path))


def _draw_line(
    axes: Axes,
    steps: Sequence[int],
    values: Sequence[float],
    *,
    label: str,
    color: str,
    style: str = "-",
) -> None:
    # Without a marker, a single point or one between two gaps is invisible.
    marker = "o" if len(steps) <= 60 else None
    axes.plot(
        steps, values, style, label=label, color=color, marker=marker, markersize=4, linewidth=1.8
    )


def _draw_loss(axes: Axes, history: Sequence[Mapping]) -> None:
    steps, values = series(history, "loss")
    if len(steps) < FEW:
        _draw_line(axes, steps, values, label="training", color=colors.TRAIN)
    else:
        axes.plot(steps, values, color=colors.TRAIN, alpha=0.3, linewidth=0.9)
        smoothed = smooth(values)
        axes.plot(steps, smoothed, color=colors.TRAIN, linewidth=2.2, label="training, smoothed")
    val_steps, val_values = series(history, "validation loss")
    if val_steps:
        _draw_line(axes, val_steps, val_values, label="validation", color=colors.VALIDATION)
    if needs_log([*values, *val_values]):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _draw_scores(axes: Axes, history: Sequence[Mapping]) -> None:
    """Mean IoU with its best value and pixel accuracy; the other scores are in history.csv."""
    for key, label, color, style in SHOWN_SCORES:
        steps, values = series(history, key)
        if not steps:
            continue
        label += f", last {values[-1]:.3f}"
        _draw_line(axes, steps, values, label=label, color=color, style=style)
    if best := best_validation(history):
        step, score = best
        label = f"best, {score:.3f} at step {step:,}"
        axes.plot(step, score, "*", color=colors.BEST, markersize=15, label=label)
    axes.set_ylim(0, 1.02)


def _draw_rates(axes: Axes, history: Sequence[Mapping]) -> None:
    for key, label, color in SHOWN_RATES:
        steps, rates = series(history, key)
        if steps:
            _draw_line(axes, steps, rates, label=label, color=color)
    axes.set_ylim(bottom=0)


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    if len(axes.lines):  # beside the title, where it covers nothing
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=10, frameon=False,
            borderaxespad=0.1,
        )  # fmt: skip
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.text(
            0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color="gray",
            fontsize=12,
        )  # fmt: skip


def occurring(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of a confusion, (C, C), for classes that occur; percent of these rows.

    A row needs ground truth, a column that or predictions.
    """
    totals = counts.sum(axis=1)
    rows, columns = np.flatnonzero(totals), np.flatnonzero((totals > 0) | (counts.sum(axis=0) > 0))
    return rows, columns, 100 * counts[np.ix_(rows, columns)] / totals[rows, None]


def save_confusion(
    counts: np.ndarray, class_names: Sequence[str], path: str | Path, *, title: str = ""
) -> None:
    """Draw a confusion matrix as a PNG, in percent of each row's pixels.

    Classes that occur neither in the ground truth nor in the predictions are left out.

    Args:
        counts: pixels, int64 (k, k); row: ground truth, column: prediction.
        class_names: k names; rows without ground truth are left out, too.
        path: the PNG; it is larger for more classes, so that the numbers stay legible.
        title: names the run.
    """
    counts, k = np.asarray(counts), len(class_names)
    if counts.shape != (k, k):
        raise ValueError(
            f"confusion counts are {counts.shape}; for {k} class names they must be ({k}, {k})"
        )
    rows, columns, percent = occurring(counts)
    names = [shortened(name, 24) for name in class_names]

    cell = 0.62 if len(columns) <= 12 else 0.42  # inches
    labels = 0.7 + 0.078 * max((len(names[i]) for i in columns), default=0)
    size = (cell * max(len(columns), 5), cell * max(len(rows), 3))
    width, height = labels + size[0] + 1.2, 1.0 + size[1] + labels
    figure = _new_figure(width, height)
    box = (labels / width, labels / height, size[0] / width, size[1] / height)
    axes = figure.add_axes(box)
    bar_axes = figure.add_axes((box[0] + box[2] + 0.2 / width, box[1], 0.2 / width, box[3]))
    absent = "" if len(columns) == k else f"; {k - len(columns)} of {k} classes do not occur"
    figure.text(
        0.15 / width, 1 - 0.3 / height, shortened(title, int(10 * width)), fontsize=10,
        color=colors.REST, parse_math=False,
    )  # fmt: skip
    figure.text(  # from the left edge: it may be wider than the matrix
        0.15 / width, 1 - 0.85 / height, f"Confusion matrix{absent}", fontsize=12,
        fontweight="bold",
    )  # fmt: skip
    if rows.size:
        shown = axes.imshow(percent, cmap=_heat(), vmin=0, vmax=100, aspect="auto")
        figure.colorbar(shown, cax=bar_axes).set_label("% of the row's pixels", fontsize=10)
        _write_percents(axes, percent, decimals=1 if len(columns) <= 12 else 0)
    else:
        bar_axes.remove()
        axes.text(0.5, 0.5, "no labeled pixels", transform=axes.transAxes, ha="center")
    _label_classes(axes, [names[i] for i in rows], [names[i] for i in columns])
    _save(figure, Path(path))


def _heat() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", colors.HEAT)


def _write_percents(axes: Axes, percent: np.ndarray, *, decimals: int) -> None:
    smallest = 0.5 * 10**-decimals  # cells that would be 0 stay empty
    for row, column in zip(*np.nonzero(percent >= smallest), strict=True):
        value = percent[row, column]
        text = "100" if value > 100 - smallest else f"{value:.{decimals}f}"
        color = "white" if value > 45 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)


def _label_classes(axes: Axes, row_names: Sequence[str], column_names: Sequence[str]) -> None:
    # With parse_math, a "$" in a name would begin a formula.
    axes.set_yticks(range(len(row_names)), row_names, fontsize=10, parse_math=False)
    axes.set_xticks(
        range(len(column_names)), column_names, fontsize=10, rotation=90, parse_math=False
    )
    axes.set_xticks(np.arange(len(column_names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(row_names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("prediction", fontsize=11)
    axes.set_ylabel("ground truth", fontsize=11)
