"""The embedded data set: repeatable, disjoint, and not to be solved by color."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest

from datasets import Shapes, shapes

NUM_CLASSES = 8


def arrays(data: Shapes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) and labels (N, H, W)."""
    pairs = [data.load(index) for index in range(count)]
    return (
        np.stack([np.asarray(image) for image, _ in pairs]),
        np.stack([np.asarray(label) for _, label in pairs]),
    )


def mean_iou(labels: np.ndarray, predictions: np.ndarray) -> float:
    ious = []
    for number in range(NUM_CLASSES):
        truth, found = labels == number, predictions == number
        ious.append((truth & found).sum() / (truth | found).sum())
    return float(np.mean(ious))


@pytest.mark.parametrize("bins", [16, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("prior", ["as counted", "equal"])
def test_color_alone_does_not_tell_the_classes(bins: int, prior: str) -> None:
    """Bayes classifier on a color histogram of the training pixels: what color can give."""

    def cell(images: np.ndarray) -> np.ndarray:
        quantized = images.astype(np.int64) * bins // 256
        return (quantized[..., 0] * bins + quantized[..., 1]) * bins + quantized[..., 2]

    images, labels = arrays(Shapes("train"), 400)
    joint = cell(images) * NUM_CLASSES + labels
    counts = np.bincount(joint.ravel(), minlength=bins**3 * NUM_CLASSES).reshape(-1, NUM_CLASSES)
    scores = counts / counts.sum(axis=0) if prior == "equal" else counts
    images, labels = arrays(Shapes("val"), 100)
    assert mean_iou(labels, scores.argmax(axis=1)[cell(images)]) < 0.4


def test_every_class_occurs_often() -> None:
    for split, count in (("train", 200), ("val", 100)):
        _, labels = arrays(Shapes(split), count)
        shares = np.bincount(labels.ravel(), minlength=NUM_CLASSES) / labels.size
        assert len(shares) == NUM_CLASSES == len(Shapes.facts.class_names)
        assert shares[1:].min() > 0.02
        assert 0.5 < shares[0] < 0.8


def test_train_and_val_are_disjoint_and_do_not_repeat() -> None:
    train, _ = arrays(Shapes("train"), 300)
    val, _ = arrays(Shapes("val"), 100)
    seen = {image.tobytes() for image in (*train, *val)}
    assert len(seen) == 400


def test_pictures_never_change() -> None:
    image, label = Shapes("train").load(7)
    again, label_again = Shapes("train", length=8).load(7)
    assert image.tobytes() == again.tobytes() and label.tobytes() == label_again.tobytes()


@pytest.mark.parametrize(
    ("split", "index", "checksum"), [("train", 0, 2371322129), ("val", 99, 4133006403)]
)
def test_pictures_are_the_same_on_every_machine(split: str, index: int, checksum: int) -> None:
    """Checksums taken once: scores on Shapes can be compared only while they hold."""
    image, label = Shapes(split).load(index)
    assert zlib.crc32(image.tobytes() + label.tobytes()) == checksum


def test_lengths_sizes_and_names() -> None:
    assert (len(Shapes("train")), len(Shapes("val"))) == (2000, 100)
    data = Shapes("val", size=(64, 97), length=5)
    image, label = data.load(0)
    assert (image.shape, label.shape) == ((64, 97, 3), (64, 97))
    assert image.dtype == label.dtype == np.uint8
    names = [data.sample_name(i) for i in range(5)]
    assert len(set(names)) == 5 and names[0].startswith("val")
    assert {"stripes", "checks", "dots"} < set(Shapes.facts.class_names)


def test_textured_figures_have_any_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else texture would be a second name for form."""
    drawn: list[str] = []

    def noting(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def wrapper(name: str, v: np.ndarray, u: np.ndarray) -> np.ndarray:
            drawn.append(name)
            return function(name, v, u)

        return wrapper

    monkeypatch.setattr(shapes, "_form", noting(shapes._form))
    monkeypatch.setattr(shapes, "_texture", noting(shapes._texture))
    for index in range(100):
        Shapes("train").load(index)
    pairs = {pair for pair in pairwise(drawn) if pair[1] in shapes.TEXTURES}  # form, its texture
    assert pairs == set(product(shapes.OUTLINES, shapes.TEXTURES))


def test_mistakes_are_answered() -> None:
    with pytest.raises(ValueError, match="unknown split 'test'; allowed: train, val"):
        Shapes("test")
    with pytest.raises(ValueError, match="at least 32x32"):
        Shapes("train", size=(16, 64))
    with pytest.raises(ValueError, match="length must be 1 or more"):
        Shapes("train", length=0)


def test_colors_of_the_palette_can_be_told_apart() -> None:
    colors = Shapes.facts.palette[:NUM_CLASSES].astype(int)
    distances = abs(colors[:, None] - colors[None]).sum(-1)
    assert distances[~np.eye(NUM_CLASSES, dtype=bool)].min() > 80
