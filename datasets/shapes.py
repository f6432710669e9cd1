"""Shapes: pictures drawn on the fly, to try everything without any file.

Only form and texture distinguish the eight classes. The background is grainy, figures are smooth.
The class of a plain figure is its form (disk, ring, triangle, cross); that of a figure with
stripes, checks or dots is its texture, whatever its outline. Colors are random and say nothing
about the class. The same index gives the same picture on every machine: all draws are integers or
plain uniforms of a seeded generator, and sines and cosines are rounded, so that the last digit of a
math library cannot move a pixel.
"""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import ClassVar

import numpy as np

from datasets.base import SegmentationDataset
from datasets.facts import ClassFacts, check_choice, make_label_table, make_palette
from utils.ext_transforms import AnyTransform

CLASS_NAMES = ("background", "disk", "ring", "triangle", "cross", "stripes", "checks", "dots")
TEXTURES = ("stripes", "checks", "dots")
OUTLINES = ("disk", "square", "triangle")  # of figures with a texture
COLORS = (
    (38, 42, 54),
    (232, 93, 84),
    (66, 135, 214),
    (244, 190, 75),
    (121, 184, 107),
    (167, 104, 189),
    (77, 190, 186),
    (240, 140, 176),
)
LENGTHS = {"train": 2000, "val": 100}
SPLIT_SEEDS = {"train": 1, "val": 2}  # begins the seed of every picture, so none is in both

Rng = np.random.Generator


class Shapes(SegmentationDataset):
    """`length` pictures of `size` (H, W) with a few figures each; `split` is train or val.

    The pictures of a split never change.
    """

    facts = ClassFacts(
        CLASS_NAMES,
        make_palette(COLORS),
        make_label_table({i: i for i in range(len(CLASS_NAMES))}),
    )
    splits: ClassVar = tuple(LENGTHS)

    def __init__(
        self,
        split: str = "train",
        *,
        transform: AnyTransform | None = None,
        size: tuple[int, int] = (128, 160),
        length: int | None = None,
    ) -> None:
        super().__init__(transform=transform)
        check_choice("split", split, LENGTHS)
        if min(size) < 32:
            raise ValueError(f"size must be at least 32x32 (H, W), got {size}")
        if length is not None and length < 1:
            raise ValueError(f"length must be 1 or more, got {length}")
        self.split = split
        self.size = size
        self.length = LENGTHS[split] if length is None else length

    @classmethod
    def create(cls, split: str, *, root: Path, allow_missing: bool) -> Shapes:
        return cls(split)

    def __len__(self) -> int:
        return self.length

    def sample_name(self, index: int) -> str:
        return f"{self.split}_{index:05d}"

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return draw_picture(np.random.default_rng((SPLIT_SEEDS[self.split], index)), self.size)


def draw_picture(rng: Rng, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and label (H, W), both uint8."""
    height, width = size
    label = np.zeros(size, dtype=np.uint8)
    ground = _random_color(rng, ())
    ground_grain, figure_grain = int(rng.integers(24, 37)), int(rng.integers(2, 6))
    pixels = _shaded(rng, np.broadcast_to(ground, (height, width, 3)))
    count = max(1, round(int(rng.integers(5, 9)) * height * width / (128 * 160)))
    placed: list[tuple[float, float, float]] = []
    for _ in range(count):
        radius = _uniform(rng, 0.17, 0.27) * min(size)
        center = _free_center(rng, radius, placed, size)
        if center is None:
            continue  # the picture is full
        placed.append((*center, radius))
        _draw_figure(rng, pixels, label, center=center, radius=radius, ground=ground)
    _add_grain(rng, pixels, strength=np.where(label == 0, ground_grain, figure_grain))
    return np.clip(pixels, 0, 255).astype(np.uint8), label


def _draw_figure(
    rng: Rng,
    pixels: np.ndarray,
    label: np.ndarray,
    *,
    center: tuple[float, float],
    radius: float,
    ground: np.ndarray,
) -> None:
    """Paint one figure of a random class into `pixels` (float32) and `label`, in place."""
    name = CLASS_NAMES[1 + int(rng.integers(len(CLASS_NAMES) - 1))]
    outline = OUTLINES[int(rng.integers(len(OUTLINES)))] if name in TEXTURES else name
    color = _random_color(rng, (ground,))
    reach = math.ceil(radius * 1.1)
    top, left = max(0, int(center[0]) - reach), max(0, int(center[1]) - reach)
    window = (slice(top, int(center[0]) + reach + 2), slice(left, int(center[1]) + reach + 2))
    rows, columns = np.ogrid[: label[window].shape[0], : label[window].shape[1]]
    y, x = rows + (top - center[0]), columns + (left - center[1])
    inside = _form(outline, *_rotated(rng, y / radius, x / radius))
    paint = np.broadcast_to(color, (*inside.shape, 3))
    if name in TEXTURES:
        second = _random_color(rng, (ground, color), brightness_step=80)
        period = _uniform(rng, 8.0, 11.0)
        marks = _texture(name, *_rotated(rng, y / period, x / period))
        paint = np.where(marks[..., None], second, paint)
    pixels[window][inside] = _shaded(rng, paint)[inside]
    label[window][inside] = CLASS_NAMES.index(name)


def _add_grain(rng: Rng, pixels: np.ndarray, *, strength: np.ndarray) -> None:
    """Add noise of half width `strength` (H, W), the same in all three colors, in place."""
    # The distribution of two added uniform draws has a hump, like the grain of paper.
    noise = rng.integers(-32, 33, size=(2, *strength.shape), dtype=np.int8).sum(0, dtype=np.int16)
    pixels += (noise * strength)[..., None] * np.float32(1 / 32)


def _form(name: str, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Mask of the outline in coordinates where the figure's radius is 1."""
    if name == "disk":
        return u * u + v * v < 0.72
    if name == "ring":
        return abs(u * u + v * v - 0.59) < 0.37
    if name == "square":
        return np.maximum(abs(u), abs(v)) < 0.76
    if name == "triangle":  # pointing to v = -1.1
        return (v < 0.55) & (1.7320508 * abs(u) - v < 1.1)
    arm, reach = 0.3, 0.98
    thin, long = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    return (thin < arm) & (long < reach)


def _texture(name: str, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Mask of the texture's second color in coordinates where its period is 1."""
    if name == "stripes":
        return u % 1 < 0.5
    if name == "checks":
        return (u % 1 < 0.5) ^ (v % 1 < 0.5)
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.105


def _rotated(rng: Rng, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates turned by up to 23 degrees either way."""
    angle = _uniform(rng, -0.4, 0.4)
    cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)
    return cos * y - sin * x, sin * y + cos * x


def _shaded(rng: Rng, paint: np.ndarray) -> np.ndarray:
    """The colors (H, W, 3) under light that changes across the picture, as float32."""
    height, width = paint.shape[:2]
    slope_y, slope_x = _uniform(rng, -26, 26), _uniform(rng, -26, 26)
    rows = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[:, None]
    return paint + (rows * np.float32(slope_y) + columns * np.float32(slope_x))


def _free_center(
    rng: Rng, radius: float, placed: list[tuple[float, float, float]], size: tuple[int, int]
) -> tuple[float, float] | None:
    """A center (y, x) that keeps most of the figure in the picture and away from the others."""
    margin = 0.8 * radius
    for _ in range(20):
        y = _uniform(rng, margin, size[0] - margin)
        x = _uniform(rng, margin, size[1] - margin)
        gaps = ((y - b) ** 2 + (x - a) ** 2 - (0.85 * (radius + r)) ** 2 for b, a, r in placed)
        if all(gap > 0 for gap in gaps):
            return y, x
    return None


def _random_color(
    rng: Rng, others: tuple[np.ndarray, ...], *, brightness_step: float = 0.0
) -> np.ndarray:
    """RGB float32 (3,) in 0..255 that nearly always differs clearly from the others.

    Its brightness differs from that of the last one by `brightness_step`, too.
    """
    for _ in range(40):
        hue, saturation = _uniform(rng, 0, 1), _uniform(rng, 0.15, 0.75)
        value = _uniform(rng, 0.3, 1.0)
        rgb = colorsys.hsv_to_rgb(hue, saturation, value)
        color = np.array(rgb, dtype=np.float32) * np.float32(255)
        far = all(float(abs(color - other).sum()) > 150 for other in others)
        if far and (
            not others or abs(_brightness(color) - _brightness(others[-1])) >= brightness_step
        ):
            break
    return color


def _brightness(color: np.ndarray) -> float:
    red, green, blue = color.tolist()
    return 0.3 * red + 0.6 * green + 0.1 * blue


def _uniform(rng: Rng, low: float, high: float) -> float:
    return low + (high - low) * rng.random()
