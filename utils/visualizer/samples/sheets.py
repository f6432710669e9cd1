"""Sheets of samples: rows of image, target, prediction and error, under a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.utils import IGNORE_INDEX

from ..pictures import LINE, error_map, legend, overlay, side_by_side, text_line
from .selection import ValidatedSample

ALPHA = 0.6
GAP = 8
MIN_WIDTH = 260  # pixels of a panel; smaller ones are enlarged, so that their headings fit


def panels(sample: ValidatedSample, palette: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Image, target, prediction and error, (H, W, 3) uint8, each with its heading."""
    image, target, prediction = sample.image, sample.target, sample.prediction
    return [
        (sample.name, image),
        ("target", overlay(image, target, palette, alpha=ALPHA)),
        ("prediction", overlay(image, prediction, palette, alpha=ALPHA)),
        (f"error: {sample.verdict}", error_map(image, target, prediction)),
    ]


def sample_row(sample: ValidatedSample, palette: np.ndarray) -> np.ndarray:
    """The panels of a sample side by side under their headings: (H, W, 3) uint8."""
    wide = [(title, enlarged(panel)) for title, panel in panels(sample, palette)]
    columns = [np.concatenate([text_line(title, p.shape[1]), p]) for title, p in wide]
    return side_by_side(columns, gap=GAP)


def enlarged(plane: np.ndarray) -> np.ndarray:
    """An image or labels, each pixel repeated until the width is at least MIN_WIDTH."""
    factor = -(-MIN_WIDTH // plane.shape[1])
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)


def sample_sheet(
    samples: Sequence[ValidatedSample], class_names: Sequence[str], palette: np.ndarray
) -> np.ndarray:
    """A legend of the classes that occur, and a row for each sample: (H, W, 3) uint8."""
    rows = [sample_row(sample, palette) for sample in samples]
    width = max([row.shape[1] for row in rows], default=4 * LINE)
    ids = sorted(set().union(*(np.unique([s.target, s.prediction]).tolist() for s in samples)))
    parts = [legend(class_names, palette, ids, width), *rows]
    return stacked(parts)


def batch_sheet(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], palette: np.ndarray
) -> np.ndarray:
    """A batch: up to 16 images (N, H, W, 3), each beside its labels (N, H, W), under a legend."""
    pairs = []
    for image, ids in zip(map(enlarged, images[:16]), map(enlarged, labels[:16]), strict=True):
        pairs.append(side_by_side([image, overlay(image, ids, palette, alpha=ALPHA)]))
    each = max(1, min(4, 1600 // pairs[0].shape[1]))
    rows = [side_by_side(pairs[i : i + each], gap=3 * GAP) for i in range(0, len(pairs), each)]
    found = np.setdiff1d(labels[:16], IGNORE_INDEX).tolist()
    return stacked([legend(class_names, palette, found, rows[0].shape[1]), *rows])


def stacked(images: Sequence[np.ndarray], *, gap: int = GAP) -> np.ndarray:
    """Join images (H, W, 3) uint8 from top to bottom on white, all aligned left."""
    width = max(image.shape[1] for image in images) + 2 * gap
    rows = [np.full((gap, width, 3), 255, np.uint8)]
    for image in images:
        padding = ((0, gap), (gap, width - gap - image.shape[1]), (0, 0))
        rows.append(np.pad(image, padding, constant_values=255))
    return np.concatenate(rows)
