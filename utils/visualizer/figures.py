"""Figures of a run: the curves and the confusion matrix."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.runtime.files import write_bytes

from .history import series, validation_keys

if TYPE_CHECKING:  # matplotlib is slow to import, so it is imported where it draws
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100  # a point of a font size is then 1.4 pixels, so that the sizes below are legible
ABSENT_GRAY = "#d9d9d9"


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


def smooth(values: Sequence[float], *, span: float) -> np.ndarray:
    """Exponential moving average over about `span` values; others than finite ones become NaN."""
    decay = 1 - 2 / (span + 1)
    total = weight = 0.0
    result = np.full(len(values), math.nan)
    for index, value in enumerate(values):
        if math.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1
            result[index] = total / weight  # without the weight, the curve would begin near zero
    return result


def save_curves(history: Sequence[Mapping], path: str | Path) -> None:
    """Plot losses, validation scores and learning rate over the steps, as a PNG of 1000 x 1000."""
    figure = _new_figure(10, 10)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.15)
    loss_axes, score_axes, lr_axes = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (4, 4, 2)}
    )
    _draw_loss(loss_axes, *series(history, "loss"))
    _draw_validation_loss(loss_axes, *series(history, "validation loss"))
    _draw_scores(score_axes, history)
    steps, rates = series(history, "lr")
    _draw_line(lr_axes, steps, rates, label="learning rate", color="tab:purple")
    for axes, title in (
        (loss_axes, "Loss"),
        (score_axes, "Validation"),
        (lr_axes, "Learning rate"),
    ):
        _finish(axes, title)
    last = max((entry["step"] for entry in history), default=0)
    lr_axes.set_xlim(0, max(last, 1) * 1.02)
    lr_axes.set_xlabel("step", fontsize=11)
    _save(figure, Path(path))


def _draw_line(
    axes: Axes, steps: Sequence[int], values: Sequence[float], *, label: str, color: str
) -> None:
    # Without a marker, a single point or one between two gaps is invisible.
    marker = "o" if len(steps) <= 60 else None
    axes.plot(steps, values, label=label, color=color, marker=marker, markersize=4, linewidth=1.8)


def _draw_loss(axes: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    if len(steps) < 20:
        _draw_line(axes, steps, values, label="loss", color="tab:blue")
    else:
        axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.9, label="loss")
        smoothed = smooth(values, span=max(5, len(values) / 30))
        axes.plot(steps, smoothed, color="tab:blue", linewidth=2.2, label="loss, smoothed")
        axes.legend(loc="upper right", fontsize=10)
    finite = [value for value in values if math.isfinite(value)]
    # A linear axis would show little but an early spike.
    if finite and min(finite) > 0 and max(finite) > 50 * min(finite):
        axes.set_yscale("log")


def _draw_validation_loss(axes: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    if steps:
        axes.plot(
            steps, values, color="tab:orange", marker="o", markersize=4, label="validation loss"
        )
        axes.legend(loc="upper right", fontsize=10)


def _draw_scores(axes: Axes, history: Sequence[Mapping]) -> None:
    highest = 0.0
    for index, key in enumerate(validation_keys(history)):
        steps, values = series(history, key)
        finite = [(step, value) for step, value in zip(steps, values, strict=True)]
        finite = [pair for pair in finite if math.isfinite(pair[1])]
        label = f"{key}: {finite[-1][1]:.3f}" if finite else f"{key}: none yet"
        _draw_line(axes, steps, values, label=label, color=f"C{index % 10}")
        highest = max([highest, *(abs(value) for _, value in finite)])
    if axes.lines:
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.03), ncols=3, fontsize=10, frameon=False
        )
    if highest <= 1:
        axes.set_ylim(0, 1.02)


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.text(
            0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color="gray",
            fontsize=12,
        )  # fmt: skip


def save_confusion(counts: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix as a PNG, in percent of each row's pixels.

    Args:
        counts: pixels, int64 (k, k); row: ground truth, column: prediction.
        class_names: k names; classes without ground truth are gray and marked as absent.
        path: the PNG; it is larger for more classes, so that the numbers stay legible.
    """
    counts = np.asarray(counts)
    k = len(class_names)
    if counts.shape != (k, k):
        raise ValueError(
            f"confusion counts are {counts.shape}; for {k} class names they must be ({k}, {k})"
        )
    totals = counts.sum(axis=1, keepdims=True)
    absent = totals[:, 0] == 0
    percent = np.where(absent[:, None], np.nan, 100 * counts / np.maximum(totals, 1))

    cell = 0.62 if k <= 12 else 0.42  # inches
    row_names = [
        f"{name} (absent)" if gone else name for name, gone in zip(class_names, absent, strict=True)
    ]
    labels = 0.6 + 0.085 * max(len(name) for name in row_names)
    side = cell * max(k, 5)
    width, height = labels + side + 1.2, 0.75 + side + labels
    figure = _new_figure(width, height)
    axes = figure.add_axes((labels / width, labels / height, side / width, side / height))
    bar_axes = figure.add_axes(
        ((labels + side + 0.2) / width, labels / height, 0.2 / width, side / height)
    )
    axes.set_facecolor(ABSENT_GRAY)
    shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    bar = figure.colorbar(shown, cax=bar_axes)
    bar.set_label("% of the row's pixels", fontsize=10)
    _write_percents(axes, percent, decimals=1 if k <= 12 else 0)
    _label_classes(axes, row_names, class_names, absent)
    _save(figure, Path(path))


def _write_percents(axes: Axes, percent: np.ndarray, *, decimals: int) -> None:
    smallest = 0.5 * 10**-decimals  # cells that would be 0 stay empty
    for row, column in zip(*np.nonzero(np.nan_to_num(percent) >= smallest), strict=True):
        value = percent[row, column]
        text = "100" if value > 100 - smallest else f"{value:.{decimals}f}"
        color = "white" if value > 55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)


def _label_classes(
    axes: Axes, row_names: Sequence[str], class_names: Sequence[str], absent: np.ndarray
) -> None:
    ticks = range(len(class_names))
    # With parse_math, a "$" in a name would begin a formula.
    axes.set_yticks(ticks, row_names, fontsize=10, parse_math=False)
    axes.set_xticks(ticks, class_names, fontsize=10, rotation=90, parse_math=False)
    for label, gone in zip(axes.get_yticklabels(), absent, strict=True):
        label.set_color("gray" if gone else "black")
    axes.set_xticks(np.arange(len(class_names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(class_names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set_title("Confusion matrix", loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel("prediction", fontsize=11)
    axes.set_ylabel("ground truth", fontsize=11)
