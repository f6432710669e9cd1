"""ExtRandomScaleCrop is scaling then cropping; crops of nearly one class are drawn again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.utils.ext_transforms.pictures import painted
from utils.ext_transforms import ExtRandomScaleCrop

FILL = (124, 116, 104)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Image whose red is the column and green the row, so that a crop says where it is from."""
    rows, columns = np.indices((height, width), dtype=np.uint8)
    return np.stack([columns, rows, rows * 0], axis=-1), np.ones((height, width), np.uint8)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def bounds(image: np.ndarray, label: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is not padding."""
    rows, columns = np.nonzero(label != 255)
    top, left = rows.min(), columns.min()
    return int(left), int(top), int(columns.max() - left + 1), int(rows.max() - top + 1)


@pytest.mark.parametrize("size", [(96, 128), (66, 40)])
@pytest.mark.parametrize("factor", [0.5, 0.71, 1.0, 1.7])
def test_it_is_scaling_then_cropping(size: tuple[int, int], factor: float) -> None:
    """Against the long way with Pillow: scale all of it, then look up where the window is."""
    crop = 48
    image, label = coordinates(*size)
    full = (int(size[1] * factor), int(size[0] * factor))
    scaled = np.asarray(Image.fromarray(image).resize(full, Image.Resampling.BILINEAR)).astype(int)
    for rng in rngs(15):
        out, ids = ExtRandomScaleCrop(crop, (factor, factor))(image, label, rng)
        assert out.shape == (crop, crop, 3) and ids.shape == (crop, crop)
        left, top, width, height = bounds(out, ids)
        assert (width, height) == (min(full[0], crop), min(full[1], crop))
        assert (out[ids == 255] == FILL).all()
        out = out[top : top + height, left : left + width].astype(int)
        # The window of the scaled picture with the same middle.
        distance = abs(scaled - out[height // 2, width // 2]).sum(axis=-1)
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        row = np.clip(row - height // 2, 0, full[1] - height)
        column = np.clip(column - width // 2, 0, full[0] - width)
        expected = scaled[row : row + height, column : column + width]
        # The window begins at a whole source pixel: up to half a source pixel, and another half
        # for the source length, which is rounded; and the search is as exact as uint8.
        assert abs(out - expected).max() <= 2


def test_factor_one_is_a_plain_crop() -> None:
    image, label = np.random.default_rng(0).integers(0, 99, (2, 60, 70), dtype=np.uint8)
    image = image[..., None].repeat(3, axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(label, (32, 32)).reshape(-1, 32, 32)
    for rng in rngs(5):
        out, ids = ExtRandomScaleCrop(32, (1.0, 1.0))(image, label, rng)
        match = np.flatnonzero((windows == ids).all(axis=(1, 2)))
        assert len(match) == 1
        row, column = divmod(int(match[0]), 70 - 32 + 1)
        assert np.array_equal(out, image[row : row + 32, column : column + 32])


def test_label_and_image_are_scaled_alike() -> None:
    """A label that repeats the image's red: nearest and bilinear may be half a step apart."""
    image, _ = coordinates(120, 200)
    label = np.ascontiguousarray(image[..., 0])
    for rng in rngs(30):
        out, ids = ExtRandomScaleCrop(64, (0.5, 2.0))(image, label, rng)
        inside = (ids != 255) & (out != FILL).any(axis=-1)
        gap = ids[inside].astype(float) - out[inside][:, 0]
        assert abs(gap).max() <= 1.5 and abs(gap.mean()) < 0.35


def test_windows_have_the_distribution_of_scaling_then_cropping() -> None:
    """Moments of the window's size and place over many draws, beside those of the long way."""
    height, width, crop, low, high, count = 100, 200, 64, 0.5, 2.0, 1500
    image, label = coordinates(height, width)
    drawn, expected = [], []
    for rng in rngs(count):
        out, ids = ExtRandomScaleCrop(crop, (low, high))(image, label, rng)
        left, top, w, h = bounds(out, ids)
        seen = out[top : top + h, left : left + w]
        first, last = seen[0, 0, :2].astype(int), seen[-1, -1, :2].astype(int)
        drawn.append([w, h, left, top, *first, *(last - first)])
    rng = np.random.default_rng(99)
    for _ in range(count):
        factor = rng.uniform(low, high)
        row = []
        for side in (width, height):
            full = int(side * factor)
            spare = full - crop
            offset = rng.integers(0, abs(spare) + 1)
            start = offset if spare > 0 else 0
            seen = min(full, crop)
            first, last = ((p + 0.5) / factor - 0.5 for p in (start, start + seen - 1))
            row.append([seen, 0 if spare > 0 else offset, max(first, 0), last - max(first, 0)])
        expected.append(np.transpose(row).ravel())
    drawn, expected = np.array(drawn), np.array(expected)
    spread = expected.std(axis=0) / np.sqrt(count)
    assert (abs(drawn.mean(axis=0) - expected.mean(axis=0)) <= 5 * spread + 0.6).all()
    assert np.allclose(drawn.std(axis=0), expected.std(axis=0), rtol=0.1, atol=0.6)


def test_all_corners_are_reached() -> None:
    image, label = coordinates(12, 10)
    crops = [ExtRandomScaleCrop(6, (0.9, 1.1))(image, label, rng)[0] for rng in rngs(600)]
    lefts, tops = ({int(crop[0, 0, axis]) for crop in crops} for axis in (0, 1))
    rights, bottoms = ({int(crop[-1, -1, axis]) for crop in crops} for axis in (0, 1))
    assert {0} <= lefts and {0} <= tops and {9} <= rights and {11} <= bottoms


def test_nothing_outside_the_window_is_read() -> None:
    """A picture that says which pixels it is asked for."""
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, key: object) -> np.ndarray:
            asked.append(key)
            return np.asarray(self)[key]

    image, label = coordinates(200, 250)
    ExtRandomScaleCrop(32, (2.0, 2.0))(
        image.view(Watched), label.view(Watched), np.random.default_rng(0)
    )
    assert len(asked) == 2 and asked[0] == asked[1]
    assert [part.stop - part.start for part in asked[0]] == [16, 16]


@pytest.mark.parametrize("factor", [0.5, 0.62, 1.3, 1.9])
def test_labels_of_the_window_take_pillows_pixels(factor: float) -> None:
    """Against Pillow on the window that the crop asks for."""
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, key: object) -> np.ndarray:
            asked.append(key)
            return np.asarray(self)[key]

    image = np.zeros((120, 130, 3), np.uint8)
    label = np.random.default_rng(0).integers(0, 255, (120, 130), dtype=np.uint8)
    for size in range(20, 60):
        crop = ExtRandomScaleCrop(size, (factor, factor))
        ids = crop(image, label.view(Watched), np.random.default_rng(size))[1]
        window = Image.fromarray(label[asked[-1]])
        expected = window.resize((size, size), Image.Resampling.NEAREST)
        assert window.size != (size, size) and np.array_equal(ids, expected)


def test_padding_is_ignored_not_background() -> None:
    image, label = np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10), np.uint8)
    ids = ExtRandomScaleCrop(32, (0.5, 1.0))(image, label, np.random.default_rng(0))[1]
    assert set(ids.ravel()) == {0, 255}


def half_and_half() -> tuple[np.ndarray, np.ndarray]:
    """Class 7 left of column 75, then 3 and a strip of ignored pixels."""
    label = np.full((100, 100), 7, np.uint8)
    label[:, 75:] = 3
    label[:, 98:] = 255
    return label[..., None].repeat(3, axis=2), label


def share(label: np.ndarray) -> float:
    """Of the most frequent class, among the labeled pixels."""
    counts = np.unique(label[label != 255], return_counts=True)[1]
    return counts.max() / counts.sum()


def test_crops_of_nearly_one_class_are_drawn_again() -> None:
    image, label = half_and_half()
    plain, mixed = (
        [share(crop(image, label, rng)[1]) for rng in rngs(200)]
        for crop in (ExtRandomScaleCrop(40), ExtRandomScaleCrop(40, cat_max_ratio=0.8))
    )
    assert np.mean(np.array(plain) > 0.8) > 0.6
    assert np.mean(np.array(mixed) > 0.8) < 0.2 * np.mean(np.array(plain) > 0.8)


def test_drawing_again_ends_after_ten_times() -> None:
    crop = ExtRandomScaleCrop(20, (1.0, 1.0), cat_max_ratio=0.001)
    draws: list[int] = []

    class Recording(np.random.Generator):
        def integers(self, *bounds: int) -> int:
            draws.append(int(super().integers(*bounds)))
            return draws[-1]

    image, label = painted(100, 100)
    out = crop(image, label, Recording(np.random.PCG64(0)))
    top, left = draws[-2:]  # the last position is taken
    assert len(draws) == 2 * 11
    assert np.array_equal(out[0], image[top : top + 20, left : left + 20])
    assert np.array_equal(out[1], label[top : top + 20, left : left + 20])


def test_the_share_counts_labeled_pixels_only() -> None:
    label = np.full((10, 10), 255, np.uint8)
    label[0, :3], label[0, 3] = 4, 5  # 75 % and 25 % of 4 labeled pixels
    image = label[..., None].repeat(3, axis=2)

    def drawn(label: np.ndarray, ratio: float) -> int:
        """How many numbers were drawn: two a try, where the crop may lie in one place only."""
        calls = []
        draws = {"integers": lambda _, *a: calls.append(a) or 0, "uniform": lambda *_: 1.0}
        counting = type("Counting", (), draws)()
        ExtRandomScaleCrop(10, cat_max_ratio=ratio)(image, label, counting)
        return len(calls) // 2

    assert drawn(label, 0.75) == 1 and drawn(label, 0.74) == 11
    assert drawn(np.full((10, 10), 255, np.uint8), 0.9) == 11  # nothing to learn from
    assert drawn(np.full((10, 10), 255, np.uint8), 1.0) == 1
