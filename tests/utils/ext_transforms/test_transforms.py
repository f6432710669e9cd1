"""Joint transforms: image and label stay together, padding is ignored, random draws are owned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tests.utils.ext_transforms.pictures import colored, painted
from utils import ext_transforms as et
from utils.ext_transforms.base import resize_label

FILL = (124, 116, 104)
NEAREST = v2.InterpolationMode.NEAREST
BILINEAR = v2.InterpolationMode.BILINEAR


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def assert_together(image: np.ndarray, label: np.ndarray) -> None:
    """Every labeled pixel shows its label's gray, every padded one the fill."""
    padded = label == 255
    assert (image[padded] == FILL).all()
    assert (image[~padded] == (label[~padded].astype(int) * 2 + 50)[:, None]).all()


def difference(ours: np.ndarray, theirs: object) -> np.ndarray:
    return abs(ours.astype(int) - np.asarray(theirs).astype(int))


def assert_as_pillow(
    transform: Callable, expected: Callable[[Image.Image, object, int], Image.Image], atol: int = 0
) -> None:
    """`expected(picture, fill, interpolation)` is torchvision on PIL; odd and even sizes."""
    for size in [(40, 60), (61, 40), (37, 91)]:
        image, label = colored(*size)
        pixels, ids = transform(image, label)
        shown = expected(Image.fromarray(image), FILL, BILINEAR)
        assert pixels.shape == np.asarray(shown).shape
        assert difference(pixels, shown).max() <= atol
        assert np.array_equal(ids, np.asarray(expected(Image.fromarray(label), 255, NEAREST)))


@pytest.mark.parametrize("size", [(20, 30), (21, 32), (20, 90), (70, 30), (100, 101), (37, 40)])
def test_center_crop_is_torchvisions(size: tuple[int, int]) -> None:
    def expected(picture: Image.Image, fill: object, _: object) -> Image.Image:
        # v2 pads with 0 only; so pad first, by its own rule.
        spare = [max(want - have, 0) for want, have in zip(size[::-1], picture.size, strict=True)]
        left, top = (s // 2 for s in spare)
        padded = F.pad(picture, [left, top, spare[0] - left, spare[1] - top], fill=fill)
        return F.center_crop(padded, size)

    assert_as_pillow(et.ExtCenterCrop(size), expected)


def test_flips_are_torchvisions() -> None:
    assert_as_pillow(et.ExtRandomHorizontalFlip(1.0), lambda p, *_: F.horizontal_flip(p))
    assert_as_pillow(et.ExtRandomVerticalFlip(1.0), lambda p, *_: F.vertical_flip(p))
    assert_as_pillow(et.ExtRandomHorizontalFlip(0.0), lambda p, *_: p)


@pytest.mark.parametrize("flip", [et.ExtRandomHorizontalFlip, et.ExtRandomVerticalFlip])
def test_flips_come_with_their_probability(flip: type) -> None:
    image, label = painted(8, 9)
    for p, low, high in ((0.5, 160, 240), (0.1, 20, 65)):
        flipped = [flip(p)(image, label, rng)[1] is not label for rng in rngs(400)]
        assert low < sum(flipped) < high
    with pytest.raises(ValueError, match="p must be a probability from 0 to 1, got 2"):
        flip(2)


@pytest.mark.parametrize("size", [32, 64, 150, (11, 13), (80, 30)])
def test_resize_is_torchvisions(size: int | tuple[int, int]) -> None:
    resize = et.ExtResize(size)
    assert_as_pillow(resize, lambda p, _, how: F.resize(p, size, interpolation=how), atol=2)


def test_labels_take_pillows_pixels() -> None:
    """Many sizes, of which a fifth has a center between two pixels, where rounding decides."""
    for have in (1, 2, 3, 12, 50, 97, 200):
        label = np.arange(have, dtype=np.uint8)[None].repeat(2, axis=0)
        picture = Image.fromarray(label)
        for want in range(1, 200):
            expected = np.asarray(picture.resize((want, 5), Image.Resampling.NEAREST))
            assert np.array_equal(resize_label(label, (5, want)), expected), (have, want)
            turned = resize_label(np.ascontiguousarray(label.T), (want, 5))
            assert np.array_equal(turned, expected.T), (have, want)


def test_scale_is_torchvisions_resize() -> None:
    for scale in (0.5, 0.77, 1.0, 1.9):

        def expected(picture: Image.Image, _: object, how: v2.InterpolationMode) -> Image.Image:
            sides = [int(side * scale) for side in picture.size[::-1]]  # noqa: B023
            return F.resize(picture, sides, interpolation=how)

        assert_as_pillow(et.ExtScale(scale), expected, atol=2)
        assert_as_pillow(et.ExtRandomScale((scale, scale)), expected, atol=2)
    assert et.ExtScale(0.01)(*painted(5, 7))[0].shape == (1, 1, 3)


def test_the_predecessors_positional_arguments() -> None:
    image, label = painted(20, 30)
    for ours, theirs in (
        (et.ExtResize((30, 31)), et.ExtResize((30, 31), Image.BILINEAR)),
        (et.ExtScale(0.7), et.ExtScale(0.7, Image.BILINEAR)),
        (et.ExtRandomScale((0.7, 0.7)), et.ExtRandomScale((0.7, 0.7), Image.BILINEAR)),
        (
            et.ExtRandomRotation((9, 9), expand=True, center=(3, 10)),
            et.ExtRandomRotation((9, 9), Image.BILINEAR, True, (3, 10)),
        ),
    ):
        one, other = ours(image, label), theirs(image, label)
        assert all(np.array_equal(*planes) for planes in zip(one, other, strict=True))


@pytest.mark.parametrize("how", [Image.NEAREST, Image.BICUBIC, 1, "nearest", None])
def test_other_interpolations_are_refused(how: object) -> None:
    for transform, argument in (
        (et.ExtResize, 30),
        (et.ExtScale, 0.5),
        (et.ExtRandomScale, (0.5, 2.0)),
    ):
        with pytest.raises(ValueError, match=r"^interpolation must be Image.BILINEAR, got .*only$"):
            transform(argument, how)


def test_random_scale_covers_its_range() -> None:
    scale = et.ExtRandomScale((0.5, 2.0))
    widths = [scale(*painted(50, 100), rng)[0].shape[1] for rng in rngs(300)]
    assert 50 <= min(widths) < 60 and 190 < max(widths) <= 200
    assert 110 < np.median(widths) < 140  # uniform: 125


@pytest.mark.parametrize("options", [{}, {"expand": True}, {"center": (3, 10)}])
def test_rotation_is_torchvisions(options: dict[str, object]) -> None:
    for angle in (0.0, 7.3, -41.0, 90.0):
        assert_as_pillow(
            et.ExtRandomRotation((angle, angle), **options),
            lambda p, fill, how, angle=angle: F.rotate(
                p, angle, interpolation=how, fill=fill, **options
            ),
        )


@pytest.mark.parametrize("how", [False, Image.NEAREST, Image.BICUBIC])
def test_rotation_resamples_as_asked(how: int) -> None:
    """False is the predecessor's default, and Pillow's old name of the nearest pixel."""
    modes = {Image.NEAREST: NEAREST, Image.BICUBIC: v2.InterpolationMode.BICUBIC}

    def expected(picture: Image.Image, fill: object, mode: object) -> Image.Image:
        mode = modes[how] if picture.mode == "RGB" else mode
        return F.rotate(picture, 9, interpolation=mode, fill=fill, expand=True)

    assert_as_pillow(et.ExtRandomRotation((9, 9), how, True), expected)
    for wrong in (1, "nearest", None):
        with pytest.raises(ValueError, match=r"^resample must be Image.NEAREST, BILINEAR or .*$"):
            et.ExtRandomRotation(9, wrong)


def test_rotation_draws_from_both_sides() -> None:
    image, label = painted(30, 40)
    angles = []

    class Fixed(np.random.Generator):
        def uniform(self, *bounds: float) -> float:
            angles.append(bounds)
            return 0.0

    et.ExtRandomRotation(20)(image, label, Fixed(np.random.PCG64(0)))
    et.ExtRandomRotation((5, 8))(image, label, Fixed(np.random.PCG64(0)))
    assert angles == [(-20, 20), (5, 8)]
    turned = {et.ExtRandomRotation(20)(image, label, rng)[1].tobytes() for rng in rngs(10)}
    assert len(turned) == 10
    for wrong in (-1, (3, 2)):
        with pytest.raises(ValueError, match="degrees must be"):
            et.ExtRandomRotation(wrong)


@pytest.mark.parametrize("diviser", [32, 16, 1, 7])
def test_pad_is_even_and_to_a_multiple(diviser: int) -> None:
    def expected(picture: Image.Image, fill: object, _: object) -> Image.Image:
        width, height = (-side % diviser for side in picture.size)
        sides = [width // 2, height // 2, width - width // 2, height - height // 2]
        return F.pad(picture, sides, fill=fill)

    assert_as_pillow(et.ExtPad(diviser), expected)


@pytest.mark.parametrize("padding", [3, (3, 5), (1, 2, 3, 4)])
def test_crop_padding_is_torchvisions(padding: int | tuple[int, ...]) -> None:
    sides = padding if isinstance(padding, int) else list(padding)
    image, label = painted(20, 30)
    expected = np.asarray(F.pad(Image.fromarray(label), sides, fill=255))
    whole = et.ExtRandomCrop(expected.shape, padding)(image, label)
    assert np.array_equal(whole[1], expected)
    assert_together(*whole)


@pytest.mark.parametrize("size", [(40, 60), (20, 30), (24, 20), (20, 60)])
def test_crop_keeps_image_and_label_together(size: tuple[int, int]) -> None:
    for rng in rngs(20):
        image, label = et.ExtRandomCrop((24, 33), pad_if_needed=True)(*painted(*size), rng)
        assert image.shape == (24, 33, 3) and label.shape == (24, 33)
        assert_together(image, label)
        assert (label != 255).sum() == min(size[0], 24) * min(size[1], 33)  # none lost to padding


def test_crop_position_is_uniform_with_both_ends() -> None:
    image, label = np.zeros((1, 6, 3), np.uint8), np.arange(6, dtype=np.uint8)[None]
    starts = [et.ExtRandomCrop((1, 3))(image, label, rng)[1][0, 0] for rng in rngs(400)]
    counts = np.bincount(starts, minlength=4)
    assert len(counts) == 4 and counts.min() > 60
    wide = et.ExtRandomCrop((1, 9), pad_if_needed=True)
    padded = [int((wide(image, label, rng)[1][0] == 0).argmax()) for rng in rngs(400)]
    counts = np.bincount(padded, minlength=4)
    assert len(counts) == 4 and counts.min() > 60


def test_crop_larger_than_the_image_needs_padding() -> None:
    with pytest.raises(ValueError, match="crop 50x50 is larger than the 30x20 image"):
        et.ExtRandomCrop(50)(*painted(20, 30))


def test_bad_arguments() -> None:
    for size in (0, (5, 0)):
        with pytest.raises(ValueError, match="size must be at least 1"):
            et.ExtRandomCrop(size)
    for scale in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="scale must be"):
            et.ExtRandomScaleCrop(10, scale)
    for ratio in (0.0, 1.1):
        with pytest.raises(ValueError, match="cat_max_ratio must be above 0 and at most 1"):
            et.ExtRandomScaleCrop(10, cat_max_ratio=ratio)
    for padding in (-1, (1, 2, 3)):
        with pytest.raises(ValueError, match="padding must be 1, 2 or 4"):
            et.ExtRandomCrop(10, padding)
    with pytest.raises(ValueError, match="diviser must be 1 or more"):
        et.ExtPad(0)


@pytest.mark.parametrize("kind", [float, np.int64, np.float32])
def test_sizes_may_be_other_numbers(kind: type) -> None:
    """The predecessor takes any number and rounds it down."""
    image, label = painted(40, 50)
    for transform in (et.ExtCenterCrop, et.ExtRandomCrop, et.ExtRandomScaleCrop, et.ExtResize):
        for given, size in ((kind(20), (20, 20)), ((kind(20), kind(30)), (20, 30))):
            if transform is et.ExtResize and size == (20, 20):
                size = (20, 25)  # the shorter side
            assert transform(given)(image, label)[1].shape == size
    assert et.ExtCenterCrop(20.7).size == (20, 20)
    assert et.ExtRandomCrop(44, kind(2))(image, label)[1].shape == (44, 44)
    for wrong in (kind(0), (kind(0), 5), float("nan"), float("inf")):
        with pytest.raises(ValueError, match="size must be at least 1"):
            et.ExtCenterCrop(wrong)
