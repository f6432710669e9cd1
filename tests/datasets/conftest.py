"""Tiny data sets on disk, and the real ones where they are present."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.base import FileDataset
from datasets.facts import ClassFacts, make_label_table, make_palette
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


PICTURE_SIZE = (64, 48)  # width, height


def picture() -> Image.Image:
    """Ramps with some noise: no two rows are equal, and every format has something to do."""
    y, x = np.mgrid[: PICTURE_SIZE[1], : PICTURE_SIZE[0]]
    noise = np.random.default_rng(0).integers(0, 20, (*y.shape, 3))
    return Image.fromarray((np.stack([x * 3, y * 4, x + y], axis=-1) + noise).astype(np.uint8))


def label_picture(palette: bool = False) -> Image.Image:
    """Values 0..3, as gray or as palette indices."""
    values = np.random.default_rng(1).integers(0, 4, PICTURE_SIZE[::-1], dtype=np.uint8)
    label = Image.fromarray(values)
    if palette:
        label.putpalette([value for i in range(256) for value in (255 - i, i // 2, 7)])
    return label


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """File contents by suffix: `picture()` in any format; "label" in it: `label_picture()`."""
    rgb, gray = picture(), np.asarray(picture().convert("L"))
    files = {
        "jpg": (rgb, "JPEG", {"quality": 95}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True}),
        "png": (rgb, "PNG", {}),
        "alpha.png": (rgb.convert("RGBA"), "PNG", {}),
        "16.png": (Image.fromarray(gray.astype(np.uint16) * 257), "PNG", {}),
        "tif": (rgb, "TIFF", {}),
        "lzw.tif": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "webp": (rgb, "WEBP", {"quality": 90}),
        "bmp": (rgb, "BMP", {}),
        "label.png": (label_picture(), "PNG", {}),
        "palette label.png": (label_picture(palette=True), "PNG", {}),
        "palette label.gif": (label_picture(palette=True), "GIF", {}),
    }
    contents = {}
    for kind, (image, file_format, options) in files.items():
        stream = io.BytesIO()
        image.save(stream, file_format, **options)
        contents[kind] = stream.getvalue()
    return contents


@pytest.fixture
def pair(tmp_path: Path, pictures: dict[str, bytes]) -> tuple[Path, Path]:
    """A good image and its good label, in a folder and under names that are not ASCII."""
    folder = tmp_path / "Straße nach Łódź 東京"
    folder.mkdir()
    image, label = folder / "ein Bild.png", folder / "seine Klassen.png"
    image.write_bytes(pictures["png"])
    label.write_bytes(pictures["label.png"])
    return image, label


class TenClasses(FileDataset):
    facts = ClassFacts(
        tuple("abcdefghij"),
        make_palette([(i, i, i) for i in range(10)]),
        make_label_table({i: i for i in range(10)}),
    )


@pytest.fixture
def ten_classes(tmp_path: Path) -> Callable[..., TenClasses]:
    """Build a data set of random images; a later call gives a data set of the same files."""
    folder = tmp_path / "mit Leerzeichen é"
    folder.mkdir()

    def build(count: int = 4, size: tuple[int, int] = (40, 50)) -> TenClasses:
        images = [folder / f"{number}.png" for number in range(count)]
        labels = [folder / f"{number} label.png" for number in range(count)]
        for number in range(count):
            if not images[number].exists():
                write_image(images[number], size, number)
                values = np.random.default_rng(100 + number).integers(0, 10, size)
                write_label(labels[number], values)
        return TenClasses(images, labels, [path.stem for path in images])

    return build
