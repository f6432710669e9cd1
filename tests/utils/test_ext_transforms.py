"""Joint transforms: image and label stay together, padding is ignored, random draws are owned."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from utils.ext_transforms import (
    ExtCenterCrop,
    ExtColorJitter,
    ExtCompose,
    ExtPILToTensor,
    ExtRandomCrop,
    ExtRandomHorizontalFlip,
    ExtRandomScale,
    ExtRandomScaleCrop,
    ExtResize,
    train_transform,
    val_transform,
)

FILL = (124, 116, 104)


def painted(height: int, width: int, cell: int = 1) -> tuple[Image.Image, Image.Image]:
    """Label of random classes below 100, and the image that shows it as (2 x label + 50) grey."""
    rng = np.random.default_rng(height * 1000 + width)
    small = rng.integers(0, 100, (-(-height // cell), -(-width // cell)))
    label = small.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width].astype(np.uint8)
    image = np.repeat((label * 2 + 50)[..., None], 3, axis=2).astype(np.uint8)
    return Image.fromarray(image), Image.fromarray(label)


def plane(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def assert_together(image: Image.Image, label: Image.Image) -> None:
    """Every labelled pixel shows its label's grey, every padded one the fill."""
    pixels, ids = plane(image), plane(label)
    padded = ids == 255
    assert (pixels[padded] == FILL).all()
    assert (pixels[~padded] == (ids[~padded] * 2 + 50)[:, None]).all()


@pytest.mark.parametrize("size", [(40, 60), (20, 30), (24, 20), (20, 60)])
def test_crop_keeps_image_and_label_together(size: tuple[int, int]) -> None:
    for rng in rngs(20):
        image, label = ExtRandomCrop((24, 33), pad_if_needed=True)(*painted(*size), rng)
        assert image.size == label.size == (33, 24)
        assert_together(image, label)
        expected = min(size[0], 24) * min(size[1], 33)
        assert (plane(label) != 255).sum() == expected  # no pixel lost to padding


def test_crop_position_is_uniform_with_both_ends() -> None:
    image = Image.new("RGB", (6, 1))
    label = Image.fromarray(np.arange(6, dtype=np.uint8)[None])
    starts = [plane(ExtRandomCrop((1, 3))(image, label, rng)[1])[0, 0] for rng in rngs(400)]
    counts = np.bincount(starts, minlength=4)
    assert len(counts) == 4 and counts.min() > 60
    padded = [
        int((plane(ExtRandomCrop((1, 9), True)(image, label, rng)[1])[0] == 0).argmax())
        for rng in rngs(400)
    ]
    counts = np.bincount(padded, minlength=4)
    assert len(counts) == 4 and counts.min() > 60


def test_crop_larger_than_the_image_needs_padding() -> None:
    with pytest.raises(ValueError, match="crop 50x50 is larger than the 30x20 image"):
        ExtRandomCrop(50)(*painted(20, 30))


@pytest.mark.parametrize("size", [(48, 64), (33, 20)])
@pytest.mark.parametrize("scale", [(0.5, 0.5), (1.0, 1.0), (1.7, 1.7), (0.5, 2.0)])
def test_scale_crop_is_scaling_then_cropping(
    size: tuple[int, int], scale: tuple[float, float]
) -> None:
    """Against the long way: Pillow scales all of it, then the window is cut out and padded."""
    crop = 40
    for seed in range(12):
        image, label = painted(*size, cell=5)
        out_image, out_label = ExtRandomScaleCrop(crop, scale)(
            image, label, np.random.default_rng(seed)
        )
        assert out_image.size == out_label.size == (crop, crop)
        factor = np.random.default_rng(seed).uniform(*scale)
        full = (round(size[1] * factor), round(size[0] * factor))
        whole_image = np.pad(
            plane(image.resize(full, Image.Resampling.BILINEAR)),
            ((crop, crop), (crop, crop), (0, 0)),
        )
        whole_label = np.pad(
            plane(label.resize(full, Image.Resampling.NEAREST)), crop, constant_values=255
        )
        windows = np.lib.stride_tricks.sliding_window_view(whole_label, (crop, crop))
        differing = (windows != plane(out_label)).mean(axis=(2, 3))
        top, left = np.unravel_index(differing.argmin(), differing.shape)
        # Where a source column lies exactly between two pixels, either may be taken: one row
        # and one column may differ. A window one pixel off differs in a tenth.
        assert differing[top, left] <= 2 / crop
        inside = plane(out_label) != 255
        assert inside.sum() == min(crop, full[0]) * min(crop, full[1])
        expected = whole_image[top : top + crop, left : left + crop]
        difference = abs(expected - plane(out_image))[inside]
        assert difference.mean() < 3  # filter support ends at the window: its border differs
        assert np.median(difference) <= 1
        assert (plane(out_image)[~inside] == FILL).all()


def test_scale_crop_label_padding_is_ignored_not_background() -> None:
    image, label = Image.new("RGB", (10, 10)), Image.new("L", (10, 10))
    out = plane(ExtRandomScaleCrop(32, (0.5, 1.0))(image, label, np.random.default_rng(0))[1])
    assert set(out.ravel()) == {0, 255}


def test_scale_covers_its_range() -> None:
    widths = [ExtRandomScale((0.5, 2.0))(*painted(50, 100), rng)[0].width for rng in rngs(300)]
    assert 50 <= min(widths) < 60 and 190 < max(widths) <= 200
    image, label = ExtRandomScale((2.0, 2.0))(*painted(5, 7))
    assert image.size == label.size == (14, 10)
    assert set(plane(label).ravel()) == set(plane(painted(5, 7)[1]).ravel())


def test_flip_mirrors_both() -> None:
    image, label = painted(8, 9)
    flipped = ExtRandomHorizontalFlip(1.0)(image, label)
    assert np.array_equal(plane(flipped[1]), plane(label)[:, ::-1])
    assert_together(*flipped)
    kept = ExtRandomHorizontalFlip(0.0)(image, label)
    assert np.array_equal(plane(kept[1]), plane(label))
    count = sum(
        plane(ExtRandomHorizontalFlip()(image, label, rng)[1])[0, 0] == plane(label)[0, -1]
        for rng in rngs(200)
    )
    assert 70 < count < 130


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (37, 91)])
def test_resize_and_center_crop_are_torchvisions(size: tuple[int, int]) -> None:
    image, label = painted(*size, cell=4)
    resized = ExtResize(32)(image, label)
    nearest = v2.Resize(32, interpolation=v2.InterpolationMode.NEAREST)
    assert np.array_equal(plane(resized[0]), plane(v2.Resize(32)(image)))
    assert np.array_equal(plane(resized[1]), plane(nearest(label)))
    cropped = ExtCenterCrop((20, 30))(image, label)
    assert cropped[0].size == (30, 20)
    assert_together(*cropped)
    assert ExtResize((11, 13))(image, label)[1].size == (13, 11)


def test_center_crop_is_the_middle() -> None:
    label = Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9))
    out = ExtCenterCrop(3)(Image.new("RGB", (9, 9)), label)[1]
    assert plane(out).tolist() == [[30, 31, 32], [39, 40, 41], [48, 49, 50]]
    small = plane(ExtCenterCrop(11)(Image.new("RGB", (9, 9)), label)[1])
    assert (small[1:-1, 1:-1] == np.arange(81).reshape(9, 9)).all()
    assert (small == 255).sum() == 121 - 81


def test_color_jitter_changes_colors_only() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    label = painted(12, 12)[1]
    jitter = ExtColorJitter(0.5, 0.5, 0.5, 0.1)
    results = {jitter(image, label, rng)[0].tobytes() for rng in rngs(20)}
    assert len(results) == 20
    assert jitter(image, label, rngs(1)[0])[1] is label
    assert ExtColorJitter()(image, label)[0] is image


def test_brightness_factor_is_in_its_range() -> None:
    image, label = Image.new("RGB", (2, 2), (100, 100, 100)), Image.new("L", (2, 2))
    values = [
        plane(ExtColorJitter(brightness=0.5)(image, label, rng)[0])[0, 0, 0] for rng in rngs(300)
    ]
    assert 50 <= min(values) < 55 and 145 < max(values) <= 150
    gray = ExtColorJitter(saturation=1.0)
    red = Image.new("RGB", (2, 2), (200, 0, 0))
    assert len({gray(red, label, rng)[0].getpixel((0, 0)) for rng in rngs(30)}) > 10


def test_jitter_order_is_random() -> None:
    """Brightness and saturation of fixed strength give different pictures in different order."""
    image, label = Image.new("RGB", (2, 2), (250, 20, 90)), Image.new("L", (2, 2))
    jitter = ExtColorJitter(brightness=1e-9, saturation=1e-9)
    calls: list[str] = []

    def note(name: str):
        return lambda image, factor: (calls.append(name), image)[1]

    jitter.adjustments = [(note(str(i)), 0.5, 0.6) for i in range(4)]
    for rng in rngs(50):
        jitter(image, label, rng)
    orders = {"".join(calls[i : i + 4]) for i in range(0, len(calls), 4)}
    assert len(orders) > 15 and all(sorted(order) == list("0123") for order in orders)


def test_to_tensor() -> None:
    image, label = painted(5, 7)
    pixels, ids = ExtPILToTensor()(image, label)
    assert pixels.dtype == ids.dtype == torch.uint8
    assert pixels.shape == (3, 5, 7) and ids.shape == (5, 7)
    assert pixels.is_contiguous()
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), plane(image))
    pixels.zero_()  # a copy: the image is untouched
    assert plane(image).min() >= 50


def test_pipelines() -> None:
    image, label = painted(50, 70)
    pixels, ids = train_transform(33, color_jitter=0.5)(image, label, np.random.default_rng(0))
    assert pixels.shape == (3, 33, 33) and ids.shape == (33, 33)
    assert pixels.dtype == ids.dtype == torch.uint8
    pixels, ids = val_transform(None)(image, label)
    assert pixels.shape == (3, 50, 70) and np.array_equal(ids.numpy(), plane(label))
    pixels, ids = val_transform(33)(image, label)
    assert pixels.shape == (3, 33, 33) and 255 not in ids


def test_train_pipeline_without_scale_keeps_them_together() -> None:
    image, label = painted(30, 70)
    for rng in rngs(20):
        pixels, ids = train_transform(40, scale_range=(1.0, 1.0))(image, label, rng)
        shown = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        assert_together(shown, Image.fromarray(ids.numpy()))


def test_only_the_given_generator_is_used() -> None:
    image, label = painted(50, 70)
    transform = train_transform(33, color_jitter=0.5)
    for seed in range(10):  # ten, so that a flip from elsewhere would show
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
        first = transform(image, label, np.random.default_rng(seed))
        assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
        assert np.random.get_state()[1].tobytes() == states[1]
        random.seed(seed + 99), np.random.seed(seed + 99), torch.manual_seed(seed + 99)
        second = transform(image, label, np.random.default_rng(seed))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], transform(image, label)[0])  # None: fresh randomness


def test_compose_without_generator_draws_one() -> None:
    image, label = painted(50, 70)
    compose = ExtCompose([ExtRandomCrop(20)])
    assert len({compose(image, label)[1].tobytes() for _ in range(10)}) > 1


def test_bad_arguments() -> None:
    for size in (0, (5, 0)):
        with pytest.raises(ValueError, match="size must be at least 1"):
            ExtRandomCrop(size)
    for scale in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="scale must be"):
            ExtRandomScaleCrop(10, scale)
    with pytest.raises(ValueError, match="hue 0..0.5"):
        ExtColorJitter(hue=0.6)
