"""The contact sheet of a data set: images beside their labels, to look at before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.base import SegmentationDataset
from utils.utils import IGNORE_INDEX
from utils.visualizer.pictures import legend, overlay, save_image, side_by_side, text_line
from utils.visualizer.samples import stacked

PANEL = (300, 225)  # largest W, H of an image, and of its label
NUM_COLUMNS = 3
GAP = 12
ALPHA = 0.6


def save_contact_sheet(
    splits: Mapping[str, SegmentationDataset], samples: Sequence[tuple[str, int]], path: Path
) -> None:
    """Draw `samples`, each (split, index), into a PNG: image, image with its label, and a legend.

    The legend has the classes that occur in them. Ignored pixels show the bare image.
    """
    if not samples:
        raise ValueError("a contact sheet needs a sample, but no image of the data set can be read")
    tiles: list[np.ndarray] = []
    occurring: set[int] = set()
    for split, index in samples:
        dataset = splits[split]
        image, label = dataset.load(index)
        occurring |= set(np.unique(label).tolist())
        title = f"{split}  {dataset.sample_name(index)}  {image.shape[1]}x{image.shape[0]}"
        tiles.append(_tile(image, label, dataset.palette, title))
    rows = [
        side_by_side(tiles[i : i + NUM_COLUMNS], gap=GAP) for i in range(0, len(tiles), NUM_COLUMNS)
    ]
    names, palette = splits[samples[0][0]].class_names, splits[samples[0][0]].palette
    shown = legend(names, palette, sorted(occurring - {IGNORE_INDEX}), rows[0].shape[1])
    save_image(path, stacked([*rows, shown], gap=GAP))


def _tile(image: np.ndarray, label: np.ndarray, palette: np.ndarray, title: str) -> np.ndarray:
    """Image and overlay side by side, scaled to the panel, under a title: (H, W, 3) uint8."""
    height, width = label.shape
    scale = min(PANEL[0] / width, PANEL[1] / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    # Mixed in full size: shrinking the ids would lose thin objects.
    small, mixed = (
        np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        for pixels in (image, overlay(image, label, palette, alpha=ALPHA))
    )
    pair = side_by_side([small, mixed], gap=4)
    tile = np.full((PANEL[1], 2 * PANEL[0] + 4, 3), 255, np.uint8)
    tile[: pair.shape[0], : pair.shape[1]] = pair
    return np.concatenate([text_line(title, tile.shape[1]), tile])
