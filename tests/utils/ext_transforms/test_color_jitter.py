"""Color changes against torchvision's, on tensors and on PIL pictures, with the same factors."""

from __future__ import annotations

from itertools import permutations

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from utils.ext_transforms.color_jitter import Adjustment, ExtColorJitter, adjust_colors

THEIRS = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def picture() -> np.ndarray:
    """Smooth colors from one end of the range to the other."""
    noise = np.random.default_rng(0).normal(size=(60, 70, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, -40, 295, cv2.NORM_MINMAX).clip(0, 255).astype(np.uint8)


def torchvisions(image: np.ndarray, adjustments: list[tuple[Adjustment, float]]) -> np.ndarray:
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for kind, factor in adjustments:
        tensor = THEIRS[kind](tensor, factor)
    return tensor.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("kind", [*THEIRS][:3])
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.5, 1.0, 1.4, 2.0])
def test_blending_is_torchvisions(kind: Adjustment, factor: float) -> None:
    ours = adjust_colors(picture(), [(kind, factor)]).astype(int)
    # It truncates what is rounded here, twice for saturation.
    assert abs(ours - torchvisions(picture(), [(kind, factor)])).max() <= 2
    assert abs(ours - torchvisions(picture(), [(kind, factor)])).mean() <= 1


@pytest.mark.parametrize("factor", [-0.5, -0.2, -0.05, 0.0, 0.1, 0.4])
def test_hue_is_torchvisions(factor: float) -> None:
    """Hue and saturation are kept in 8 bits, as Pillow does, where torchvision has floats."""
    ours = adjust_colors(picture(), [("hue", factor)]).astype(int)
    error = abs(ours - torchvisions(picture(), [("hue", factor)]))
    assert error.max() <= 10 and error.mean() < 0.6


@pytest.mark.parametrize("order", [*permutations([*THEIRS][:3])])
@pytest.mark.parametrize("factors", [(0.6, 0.7, 0.5), (1.5, 1.4, 1.3), (1.5, 0.6, 1.4)])
def test_several_at_once_are_one_after_another(
    order: tuple[Adjustment, ...], factors: tuple[float, ...]
) -> None:
    """Clipping in between included: what was clipped is darkened from 255, as theirs."""
    adjustments = list(zip(order, factors, strict=True))
    ours = adjust_colors(picture(), adjustments).astype(int)
    error = abs(ours - torchvisions(picture(), adjustments))
    assert error.max() <= 5 and error.mean() < 2.1  # each of its steps truncates, up to 1 x 1.5^2


def test_hue_among_the_others() -> None:
    adjustments = [("contrast", 0.8), ("hue", 0.2), ("saturation", 0.7)]
    error = abs(adjust_colors(picture(), adjustments) - torchvisions(picture(), adjustments))
    assert error.max() <= 12 and error.mean() < 2


def test_nothing_to_do_changes_nothing() -> None:
    image, label = picture(), np.zeros((60, 70), np.uint8)
    assert ExtColorJitter()(image, label)[0] is image
    assert ExtColorJitter((1, 1), (1, 1), (1, 1), (0, 0))(image, label)[0] is image
    assert ExtColorJitter(0.5, 0.5, 0.5, 0.1)(image, label)[1] is label


STRENGTHS = [
    {"brightness": 0.5},
    {"contrast": 0.3},
    {"saturation": 2.0},
    {"hue": 0.2},
    {"brightness": (0.2, 0.9), "contrast": (1.0, 3.0), "saturation": (0.0, 0.5), "hue": (-0.1, 0)},
    {},
]


@pytest.mark.parametrize("strengths", STRENGTHS)
def test_ranges_are_torchvisions(strengths: dict[str, object]) -> None:
    ours, theirs = ExtColorJitter(**strengths), v2.ColorJitter(**strengths)
    for kind in THEIRS:
        expected = getattr(theirs, kind)
        assert ours.ranges[kind] == (None if expected is None else tuple(expected))


def test_factors_are_uniform_in_their_range_and_the_order_is_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[list[tuple[Adjustment, float]]] = []
    monkeypatch.setattr(
        "utils.ext_transforms.color_jitter.adjust_colors", lambda _, steps: drawn.append(steps)
    )
    jitter = ExtColorJitter(0.5, 0.25, (2, 4), 0.1)
    for seed in range(500):
        jitter(picture(), np.zeros((60, 70), np.uint8), np.random.default_rng(seed))
    assert len({tuple(kind for kind, _ in steps) for steps in drawn}) == 24
    expected = {"brightness": (0.5, 1.5), "contrast": (0.75, 1.25), "saturation": (2, 4)}
    for kind, (low, high) in (expected | {"hue": (-0.1, 0.1)}).items():
        factors = np.array([dict(steps)[kind] for steps in drawn])
        assert low <= factors.min() and factors.max() <= high
        counts = np.histogram(factors, bins=5, range=(low, high))[0]
        assert counts.min() > 70 and counts.max() < 130  # 100 each


@pytest.mark.parametrize(
    "wrong", [{"hue": 0.6}, {"hue": (-0.6, 0)}, {"brightness": -0.1}, {"contrast": (2.0, 1.0)}]
)
def test_wrong_strengths(wrong: dict[str, object]) -> None:
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name} must "):
        ExtColorJitter(**wrong)
