"""Pascal VOC segmentation, 2007 to 2012 (Everingham et al., IJCV 2010), and 2012_aug.

The augmented labels are the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torchvision

from datasets.base import FileDataset, Transform, make_label_table

CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

# Where the archives of each year unpack to, below the data root.
FOLDERS = {year: Path("VOCdevkit") / f"VOC{year}" for year in map(str, range(2007, 2013))}
FOLDERS["2011"] = Path("TrainVal") / "VOCdevkit" / "VOC2011"
FOLDERS["2012_aug"] = FOLDERS["2012"]


def voc_cmap(N: int = 256, normalized: bool = False) -> np.ndarray:
    """Colours (N, 3) of the VOC development kit: uint8, or float32 in 0..1 when normalized.

    Bit 3k, 3k+1, 3k+2 of a class id is bit 7-k of its red, green and blue.
    """
    ids = np.arange(N)
    cmap = np.zeros((N, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            cmap[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return cmap.astype(np.float32) / 255 if normalized else cmap


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


class VOCSegmentation(FileDataset):
    """VOC from `root`, which holds VOCdevkit/ (for 2011: TrainVal/VOCdevkit/).

    `2012_aug` trains on every label in SegmentationClassAug that is not in val.txt (10,582 images)
    and validates on VOC's own val.txt and SegmentationClass. `image_set` is train, val or trainval;
    also test for 2007, whose labels are published; 2012_aug has train and val.
    """

    class_names: ClassVar = CLASS_NAMES
    palette: ClassVar = _frozen(voc_cmap())
    label_table: ClassVar = make_label_table({i: i for i in range(len(CLASS_NAMES))})
    splits: ClassVar = ("train", "val", "trainval", "test")
    how_to_get: ClassVar = (
        "pass --download to fetch Pascal VOC into it, or --dataset cityscapes and --data_root "
        "where leftImg8bit/ and gtFine/ are"
    )

    def __init__(
        self,
        root: str | Path,
        year: str = "2012",
        image_set: str = "train",
        download: bool = False,
        transform: Transform | None = None,
        *,
        seed: int = 0,
    ) -> None:
        _check_choice("year", year, tuple(FOLDERS))
        _check_choice(f"image_set for VOC {year}", image_set, image_sets(year))
        base = Path(root) / FOLDERS[year]
        if download:
            _download(Path(root), base, year, image_set)
        augmented = year == "2012_aug" and image_set == "train"
        names = _augmented_names(base) if augmented else _read_split(base, image_set)
        labels = base / ("SegmentationClassAug" if augmented else "SegmentationClass")
        super().__init__(
            [base / "JPEGImages" / f"{name}.jpg" for name in names],
            [labels / f"{name}.png" for name in names],
            names,
            transform=transform,
            seed=seed,
            hint=f"VOC{year} in {base} is not complete",
        )

    @classmethod
    def create(
        cls,
        split: str,
        *,
        root: Path,
        transform: Transform | None,
        seed: int,
        year: str,
        download: bool,
    ) -> VOCSegmentation:
        return cls(root, year, split, download, transform, seed=seed)


def image_sets(year: str) -> tuple[str, ...]:
    """The splits that have labels."""
    if year == "2012_aug":
        return ("train", "val")
    return ("train", "val", "trainval") + (("test",) if year == "2007" else ())


def _check_choice(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {what}: {value!r}; allowed: {', '.join(allowed)}")


def _split_file(base: Path, image_set: str) -> Path:
    return base / "ImageSets" / "Segmentation" / f"{image_set}.txt"


def _read_split(base: Path, image_set: str) -> list[str]:
    path = _split_file(base, image_set)
    if not path.is_file():
        top = "TrainVal/VOCdevkit/" if base.name == "VOC2011" else "VOCdevkit/"
        raise FileNotFoundError(
            f"no split file {path}; --data_root must hold {top}, or pass --download"
        )
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"split file {path} is empty; it must list image names, one a line")
    return names


def _augmented_names(base: Path) -> list[str]:
    folder = base / "SegmentationClassAug"
    validation = set(_read_split(base, "val"))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; year 2012_aug needs the 12,031 labels of SegmentationClassAug "
            "put there (--download fetches VOC2012 alone), or use --year 2012"
        )
    stems = (name[:-4] for name in os.listdir(folder) if name.endswith(".png"))
    # Archives from macOS leave "._name.png" beside the files.
    names = sorted(s for s in stems if s not in validation and not s.startswith("."))
    if not names:
        raise ValueError(f"no label in {folder} is outside val.txt; it must hold the .png labels")
    return names


def _download(root: Path, base: Path, year: str, image_set: str) -> None:
    """Fetch and unpack with torchvision's downloader, which checks the archive's checksum."""
    if _split_file(base, image_set).is_file():
        return  # there already: unpacking again would only cost minutes
    root.mkdir(parents=True, exist_ok=True)
    voc_year = year.removesuffix("_aug")
    try:
        torchvision.datasets.VOCSegmentation(str(root), voc_year, image_set, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"could not download VOC{voc_year} into {root}: {' '.join(str(error).split())}; "
            f"fetch the archive by hand and unpack it so that {base} exists"
        ) from error
