"""What the page's script is given: curves, and the validations that a run keeps samples of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..colors import hex_color
from ..figures import occurring, smooth
from ..history import SCORE, best_validation, kept_steps, series, tables
from ..pictures import data_uri
from ..record import Record
from ..samples import ValidatedSample, worst_first
from .words import score_text

MAX_POINTS = 1000  # of one curve


@dataclass
class Pictures:
    """The pictures of a page as data URIs, each once; `width` and `quality` limit their size."""

    width: int
    quality: int
    uris: dict[str, int] = field(default_factory=dict)  # with their places in the list

    def add(self, pixels: np.ndarray) -> int:
        """Add an image (H, W, 3) as JPEG or class ids (H, W) as PNG; returns its place."""
        uri = data_uri(pixels, "JPEG" if pixels.ndim == 3 else "PNG", quality=self.quality)
        return self.uris.setdefault(uri, len(self.uris))


def _finite(values: Sequence[float], digits: int) -> list[float | None]:
    return [round(value, digits) if math.isfinite(value) else None for value in values]


def _curve(steps: Sequence[int], values: Sequence[float]) -> dict[str, list]:
    if len(steps) > MAX_POINTS:
        places = np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)
        steps, values = [steps[i] for i in places], [values[i] for i in places]
    return {"x": list(steps), "y": _finite(values, 4)}


def curves(record: Record, *, name: str, color: str) -> dict[str, Any]:
    """The curves of a run."""
    steps, losses = series(record.history, "loss")
    score_steps, scores = series(record.history, SCORE)
    best = best_validation(record.history)
    return {
        "name": name,
        "color": color,
        "last": last_step(record),
        "loss": _curve(steps, losses),
        "smooth": _curve(steps, smooth(losses).tolist()),
        "validation_loss": _curve(*series(record.history, "validation loss")),
        "miou": _curve(score_steps, scores),
        "accuracy": _curve(*series(record.history, "Overall Acc")),
        "best": None if best is None else {"x": best[0], "y": round(best[1], 4)},
    }


def last_step(record: Record) -> int:
    """The last step in the history."""
    return max(line["step"] for line in record.history)


def classes(record: Record) -> list[dict[str, Any]]:
    """Name and color of each class."""
    return [
        {"name": name, "color": hex_color(color), "rgb": color.tolist()}
        for name, color in zip(record.class_names, record.palette, strict=False)
    ]


def validations(record: Record, pictures: Pictures) -> list[dict[str, Any]]:
    """The first, the best and the last validation: classes, confusion, samples."""
    tables_by_step = tables(record.history, "classes")
    steps, scores = series(record.history, SCORE)
    score_of, order, found = dict(zip(steps, scores, strict=True)), list(tables_by_step), []
    best = best_validation(record.history)
    for step in kept_steps(record.history):
        if step not in tables_by_step:
            continue
        names = [
            name
            for name, is_it in (
                ("first", step == steps[0]),
                ("best", best is not None and step == best[0]),
                ("last", step == steps[-1]),
            )
            if is_it
        ]
        before = order[order.index(step) - 1] if order.index(step) else None
        samples = [sample.scaled(pictures.width) for sample in worst_first(record.samples(step))]
        found.append(
            {
                "step": step,
                "title": f"{step:,} ({', '.join(names)}): mean IoU {score_text(score_of[step])}",
                "classes": _class_rows(record, step, before),
                "confusion": _confusion(record, step),
                "samples": [_sample(sample, pictures) for sample in samples],
                "scale": _scale_note(samples),
            }
        )
    return found


def _class_rows(record: Record, step: int, before: int | None) -> list[dict[str, Any]]:
    by_step, colors = tables(record.history, "classes"), record.palette
    earlier = {} if before is None else _iou(by_step[before]["rows"])
    keys = ("IoU", "precision", "recall", "pixels")
    rows = []
    for row, color in zip(by_step[step]["rows"], colors, strict=False):
        name, iou = str(row.get("class")), row.get("IoU")
        was = earlier.get(name)
        change = None if iou is None or was is None else round(iou - was, 4)
        values = {key.lower(): row.get(key) for key in keys}
        rows.append({"name": name, "color": hex_color(color), "change": change, **values})
    return rows


def _iou(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The IoU of each class in the ground truth; None where it is not defined."""
    return {str(row.get("class")): row.get("IoU") for row in rows if row.get("pixels")}


def last_iou(record: Record) -> dict[str, float | None]:
    """The IoU of each class in the ground truth of the last validation."""
    lines = list(tables(record.history, "classes").values())
    return _iou(lines[-1]["rows"]) if lines else {}


def _confusion(record: Record, step: int) -> dict[str, Any]:
    line = tables(record.history, "confusion").get(step)
    if line is None:
        return {"counts": [], "rows": [], "columns": []}
    counts = np.array(line["rows"], np.int64)
    rows, columns, _ = occurring(counts)
    return {"counts": counts.tolist(), "rows": rows.tolist(), "columns": columns.tolist()}


def _sample(sample: ValidatedSample, pictures: Pictures) -> dict[str, Any]:
    return {
        "name": sample.name,
        "note": sample.verdict,
        "image": pictures.add(sample.image),
        "target": pictures.add(sample.target),
        "prediction": pictures.add(sample.prediction),
    }


def _scale_note(samples: Sequence[ValidatedSample]) -> str:
    """How much smaller than the images the samples are."""
    scales = sorted({round(100 * sample.scale) for sample in samples})
    if not scales or scales[0] >= 100:
        return ""
    if len(scales) == 1:
        return f"shown at {scales[0]} % of their size"
    return f"shown at {scales[0]} to {scales[-1]} % of their size"
