"""Tiny data sets on disk, and the real ones where they are present."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.voc import voc_cmap

VOC_SIZE = (20, 30)  # H, W


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Path of a real data set by name; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    root = Path(os.environ.get("DEEPLAB_TEST_DATA", default))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real data at {root / name}; set DEEPLAB_TEST_DATA")
        return root / name

    return find


def write_image(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_label(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    label = Image.fromarray(values.astype(np.uint8))
    if palette:
        label.putpalette(voc_cmap().ravel().tolist())
    label.save(path)


def voc_label(seed: int) -> np.ndarray:
    """Label with classes 0..20 and 255."""
    values = np.append(np.arange(21), 255)
    return np.random.default_rng(seed).choice(values, VOC_SIZE).astype(np.uint8)


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """Build a VOC tree: names a, b, c train and d, e val; with `aug` also labels for all and f."""

    def build(folder: str = "VOCdevkit/VOC2012", aug: bool = False) -> Path:
        base = tmp_path / "voc data" / folder
        splits = base / "ImageSets" / "Segmentation"
        splits.mkdir(parents=True)
        (splits / "train.txt").write_text("a\nb\nc\n")
        (splits / "val.txt").write_text("d\ne\n\n")
        (splits / "trainval.txt").write_text("a\nb\nc\nd\ne\n")
        (splits / "test.txt").write_text("e\n")
        for number, name in enumerate("abcdef"):
            write_image(base / "JPEGImages" / f"{name}.jpg", VOC_SIZE, number)
            if name != "f":
                label = base / "SegmentationClass" / f"{name}.png"
                write_label(label, voc_label(number), palette=True)
            if aug:
                write_label(base / "SegmentationClassAug" / f"{name}.png", voc_label(100 + number))
        return tmp_path / "voc data"

    return build


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """Two cities for train, one for val, one for test; every label id 0..33 and 255 occurs."""
    root = tmp_path / "cityscapes"
    samples = [
        ("train", "ulm", "ulm_000001_000019"),
        ("train", "aachen", "aachen_000001_000019"),
        ("train", "aachen", "aachen_000000_000019"),
        ("val", "frankfurt", "frankfurt_000000_000294"),
        ("test", "berlin", "berlin_000000_000019"),
    ]
    for number, (split, city, stem) in enumerate(samples):
        write_image(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", (10, 7), number)
        ids = np.append(np.arange(34), 255).repeat(2).reshape(10, 7)
        write_label(root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", ids)
        # Files of the real archive that must not be taken for labels or images.
        write_label(root / f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", ids)
    return root
