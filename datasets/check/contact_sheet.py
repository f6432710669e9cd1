"""The contact sheet of a data set: images beside their labels, to look at before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datasets.base import SegmentationDataset
from utils.utils import IGNORE_INDEX
from utils.visualizer.pictures import fitted, font, overlay, save_image

PANEL = (300, 225)  # largest W, H of an image, and of its label
NUM_COLUMNS = 3
GAP = 12
TITLE_HEIGHT = 22
LEGEND_CELL = (210, 22)
ALPHA = 0.6
GRAY = (150, 150, 150)
Size = tuple[int, int]


def save_contact_sheet(
    splits: Mapping[str, SegmentationDataset], samples: Sequence[tuple[str, int]], path: Path
) -> None:
    """Draw `samples`, each (split, index), into a PNG: image, image with its label, and a legend.

    Classes that occur in none of the samples have a gray name. Ignored pixels show the bare image.
    """
    if not samples:
        raise ValueError("a contact sheet needs a sample, but no image of the data set can be read")
    tiles: list[Image.Image] = []
    occurring: set[int] = set()
    for split, index in samples:
        dataset = splits[split]
        image, label = dataset.load(index)
        occurring |= set(np.unique(label).tolist())
        title = f"{split}  {dataset.sample_name(index)}  {image.shape[1]}x{image.shape[0]}"
        tiles.append(_tile(image, label, dataset.palette, title))
    grid = _grid(tiles)
    names, palette = splits[samples[0][0]].class_names, splits[samples[0][0]].palette
    legend = _legend(names, palette, occurring, grid.width)
    sheet = Image.new("RGB", (grid.width, grid.height + legend.height), "white")
    sheet.paste(grid, (0, 0))
    sheet.paste(legend, (0, grid.height))
    save_image(path, sheet)


def _tile(image: np.ndarray, label: np.ndarray, palette: np.ndarray, title: str) -> Image.Image:
    """Image and overlay side by side, scaled to the panel, under a title."""
    height, width = label.shape
    scale = min(PANEL[0] / width, PANEL[1] / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    # Mixed in full size: shrinking the ids would lose thin objects.
    mixed = Image.fromarray(overlay(image, label, palette, alpha=ALPHA)).resize(
        size, Image.Resampling.BOX
    )
    tile = Image.new("RGB", (2 * PANEL[0] + 4, PANEL[1] + TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(tile)
    draw.text((0, 2), fitted(title, tile.width), fill="black", font=font())
    tile.paste(small, (0, TITLE_HEIGHT))
    tile.paste(mixed, (size[0] + 4, TITLE_HEIGHT))
    return tile


def _grid(tiles: Sequence[Image.Image]) -> Image.Image:
    columns = min(NUM_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].width + GAP, tiles[0].height + GAP
    grid = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for number, tile in enumerate(tiles):
        grid.paste(tile, (GAP + number % columns * width, GAP + number // columns * height))
    return grid


def _legend(
    names: Sequence[str], palette: np.ndarray, occurring: set[int], width: int
) -> Image.Image:
    cell_width, cell_height = LEGEND_CELL
    columns = max((width - GAP) // cell_width, 1)
    cells: list[tuple[str, tuple[int, ...] | None, bool]] = [
        (name, tuple(palette[i].tolist()), i in occurring) for i, name in enumerate(names)
    ]
    if IGNORE_INDEX in occurring:
        cells.append(("ignored: the bare image", None, True))
    rows = -(-len(cells) // columns)
    legend = Image.new("RGB", (width, rows * cell_height + GAP), "white")
    draw = ImageDraw.Draw(legend)
    for number, (name, color, occurs) in enumerate(cells):
        x = GAP + number % columns * cell_width
        y = number // columns * cell_height
        draw.rectangle((x, y + 3, x + 24, y + cell_height - 4), fill=color, outline=GRAY)
        shown = fitted(name, cell_width - 40)
        draw.text((x + 31, y + 2), shown, fill="black" if occurs else GRAY, font=font())
    return legend
