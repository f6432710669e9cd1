"""Transforms in a row: PIL pictures or arrays, tensors at the end, one generator for all."""

from __future__ import annotations

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from tests.utils.ext_transforms.pictures import colored, painted
from utils import ext_transforms as et

FILL = (124, 116, 104)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def assert_together(image: np.ndarray, label: np.ndarray) -> None:
    """Every labeled pixel shows its label's gray, every padded one the fill."""
    padded = label == 255
    assert (image[padded] == FILL).all()
    assert (image[~padded] == (label[~padded].astype(int) * 2 + 50)[:, None]).all()


def test_pictures_of_pillow_come_back_as_such() -> None:
    image, label = (Image.fromarray(plane) for plane in painted(50, 70, cell=4))
    everything = [
        et.ExtRandomScale((0.5, 2.0)),
        et.ExtScale(0.9),
        et.ExtRandomCrop(30, 2, True),
        et.ExtCenterCrop((50, 60)),
        et.ExtRandomHorizontalFlip(),
        et.ExtRandomVerticalFlip(),
        et.ExtRandomRotation(10),
        et.ExtPad(32),
        et.ExtResize(40),
        et.ExtColorJitter(0.5, 0.5, 0.5, 0.1),
        et.ExtRandomScaleCrop(33, (0.5, 2.0)),
    ]
    arrays = np.asarray(image), np.asarray(label)
    for transform in everything:
        shown = transform(image, label, np.random.default_rng(3))
        plain = transform(*arrays, np.random.default_rng(3))
        assert isinstance(shown[0], Image.Image) and isinstance(shown[1], Image.Image)
        assert shown[0].mode == "RGB" and shown[1].mode == "L"
        assert all(np.array_equal(np.asarray(s), p) for s, p in zip(shown, plain, strict=True))
        assert transform(image, label)[0].size  # as the predecessor's: transform(img, lbl)
        assert repr(transform).startswith(f"{type(transform).__name__}(")
    chain = et.ExtCompose([*everything, et.ExtToTensor(), et.ExtNormalize([0.5] * 3, [0.5] * 3)])
    pixels, ids = chain(image, label)
    assert pixels.shape == (3, 33, 33) and pixels.dtype == torch.float32
    assert ids.shape == (33, 33) and ids.dtype == torch.uint8
    assert repr(chain).count("\n") == len(everything) + 3


def test_palette_and_grey_pictures() -> None:
    image, label = (Image.fromarray(plane) for plane in painted(20, 30))
    label.putpalette(list(range(256)) * 3)
    shown = et.ExtCenterCrop(10)(image.convert("L"), label)
    assert shown[0].mode == "RGB" and shown[1].mode == "P"
    assert shown[1].getpalette() == label.getpalette()
    assert_together(*map(np.asarray, shown))


def test_sizes_that_differ_are_named() -> None:
    image, label = painted(20, 30)
    with pytest.raises(ValueError, match="the image is 30x20, but its label is 29x20"):
        et.ExtRandomHorizontalFlip()(image, label[:, :29])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16", "bool"])
def test_labels_of_other_types_are_refused_by_all(dtype: str) -> None:
    image, label = painted(20, 30)
    for transform in (
        et.ExtResize(10),
        et.ExtRandomScaleCrop(10),
        et.ExtRandomCrop(10),
        et.ExtRandomRotation(10),
        et.ExtColorJitter(0.5),
        et.ExtRandomHorizontalFlip(),
        et.ExtPILToTensor(),
        et.val_transform(),
    ):
        with pytest.raises(ValueError, match=f"^labels must be uint8, got {dtype}; .*$"):
            transform(image, label.astype(dtype))
    with pytest.raises(ValueError, match="^labels must be uint8, got int32"):
        et.ExtPad()(Image.fromarray(image), Image.fromarray(label.astype(np.int32)))


def test_lambda_changes_the_image_alone() -> None:
    image, label = painted(4, 5)
    shown = et.ExtLambda(lambda given: 255 - given)(image, label)
    assert np.array_equal(shown[0], 255 - image) and shown[1] is label


def test_to_tensor() -> None:
    image, label = colored(5, 7)
    for mirrored in (False, True):  # negative strides, as a view of numpy's has
        given = (image[:, ::-1], label[:, ::-1]) if mirrored else (image, label)
        pixels, ids = et.ExtPILToTensor()(*given)
        assert pixels.dtype == ids.dtype == torch.uint8
        assert pixels.shape == (3, 5, 7) and ids.shape == (5, 7)
        assert pixels.is_contiguous() and ids.is_contiguous()
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), given[0])
        assert np.array_equal(ids.numpy(), given[1])
        kept = image.copy(), label.copy()
        pixels.zero_(), ids.zero_()  # copies: what was given is untouched
        assert np.array_equal(image, kept[0]) and np.array_equal(label, kept[1])


def test_float_tensors_are_torchvisions() -> None:
    image, label = colored(5, 7)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = F.to_dtype(F.to_image(Image.fromarray(image)), torch.float32, scale=True)
    pixels, ids = et.ExtToTensor(target_type="int64")(image, label)
    torch.testing.assert_close(pixels, expected.as_subclass(torch.Tensor))
    assert ids.dtype == torch.int64 and np.array_equal(ids.numpy(), label)
    unscaled = et.ExtToTensor(normalize=False)(image, label)[0]
    assert torch.equal(unscaled, torch.from_numpy(image).permute(2, 0, 1).float())
    normal, same = et.ExtNormalize(mean, std)(pixels, ids)
    assert same is ids
    torch.testing.assert_close(normal, F.normalize(expected.as_subclass(torch.Tensor), mean, std))


def test_pipelines() -> None:
    image, label = painted(50, 70)
    augment = et.train_transform(33, color_jitter=0.5, cat_max_ratio=0.75)
    pixels, ids = augment(image, label, np.random.default_rng(0))
    assert pixels.shape == (3, 33, 33) and ids.shape == (33, 33)
    assert pixels.dtype == ids.dtype == torch.uint8
    pixels, ids = et.val_transform(None)(image, label)
    assert pixels.shape == (3, 50, 70) and np.array_equal(ids.numpy(), label)
    pixels, ids = et.val_transform(33)(image, label)
    assert pixels.shape == (3, 33, 33) and 255 not in ids


def test_memory_maps_are_taken_in_silence() -> None:
    image, label = painted(50, 70)
    assert not image.flags.writeable and not label.flags.writeable
    torch.set_warn_always(True)  # else once a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for rng in rngs(4):
                et.train_transform(33, color_jitter=0.5)(image, label, rng)
            et.val_transform(33)(image, label)
    finally:
        torch.set_warn_always(False)


def test_train_pipeline_without_scale_keeps_them_together() -> None:
    image, label = painted(30, 70)
    for rng in rngs(20):
        pixels, ids = et.train_transform(40, scale_range=(1.0, 1.0))(image, label, rng)
        assert_together(pixels.permute(1, 2, 0).numpy(), ids.numpy())


def test_only_the_given_generator_is_used() -> None:
    image, label = painted(50, 70)
    transform = et.ExtCompose(
        [et.ExtRandomRotation(9), et.ExtRandomVerticalFlip()]
        + et.train_transform(33, color_jitter=0.5, cat_max_ratio=0.02).transforms
    )
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
    compose = et.ExtCompose([et.ExtRandomCrop(20)])
    assert len({compose(image, label)[1].tobytes() for _ in range(10)}) > 1


RANDOM = [
    et.ExtRandomScale((0.5, 2.0)),
    et.ExtRandomCrop(20),
    et.ExtRandomHorizontalFlip(),
    et.ExtRandomRotation(10),
    et.ExtColorJitter(0.5),
    et.ExtRandomScaleCrop(20),
    et.ExtCompose([et.ExtRandomCrop(40), et.ExtRandomCrop(20)]),
]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda transform: type(transform).__name__)
def test_transforms_called_alone_follow_torchs_seed(transform: object) -> None:
    image, label = painted(50, 70)

    def drawn(seed: int) -> list[bytes]:
        torch.manual_seed(seed)
        return [transform(image, label)[0].tobytes() for _ in range(12)]

    first = drawn(1)
    assert len(set(first)) > 1
    assert drawn(1) == first != drawn(2)


class TwoArguments:
    """As people write them for the predecessor; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[object] = []

    def __call__(self, img: object, lbl: object) -> tuple:
        self.given.append(img)
        return img, lbl


class Unhashable(TwoArguments):
    __hash__ = None


class Module(torch.nn.Module):
    def forward(self, img: object, lbl: object) -> tuple:
        return img, lbl


def with_a_default(img: object, lbl: object, p: float = 0.5) -> tuple:
    assert p == 0.5
    return img, lbl


@pytest.mark.parametrize(
    "transform",
    [
        TwoArguments(),
        Unhashable(),
        Module(),
        with_a_default,
        functools.partial(with_a_default, p=0.5),
        lambda *pair: pair,
        lambda img, lbl, **_: (img, lbl),
        TwoArguments().__call__,
    ],
)
def test_transforms_of_two_arguments_get_what_was_given(transform: object) -> None:
    image, label = painted(20, 30)
    compose = et.ExtCompose([transform, et.ExtRandomHorizontalFlip(0.0), transform])
    for given in ((image, label), (Image.fromarray(image), Image.fromarray(label))):
        assert all(one is other for one, other in zip(compose(*given), given, strict=True))


def by_name(img: object, lbl: object, *, rng: np.random.Generator) -> tuple:
    return rng, lbl


def optional(img: object, lbl: object, p: float = 0.5, rng: object = None) -> tuple:
    assert p == 0.5
    return rng, lbl


class Forward(torch.nn.Module):
    def forward(self, img: object, lbl: object, rng: object) -> tuple:
        return rng, lbl


@pytest.mark.parametrize("transform", [by_name, optional, Forward()])
def test_transforms_that_take_the_generator_get_it(transform: object) -> None:
    rng = np.random.default_rng(0)
    assert et.ExtCompose([transform])(None, None, rng)[0] is rng


def test_compose_and_lambda_of_one_picture() -> None:
    chain = et.Compose([et.Lambda(lambda x: x + 1), et.Lambda(lambda x: 2 * x)])
    assert chain(3) == 8


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (TwoArguments(), True),
        (by_name, False),
        (et.train_transform(33), False),
        (et.ExtCompose([et.train_transform(33), TwoArguments()]), True),
        (et.ExtCompose([by_name]), False),
        (et.ExtLambda(lambda img: img.rotate(180)), True),
    ],
)
def test_transforms_ask_for_pictures_or_arrays(transform: object, expected: bool) -> None:
    assert et.takes_pictures(transform) is expected
