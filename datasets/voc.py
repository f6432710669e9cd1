"""Pascal VOC segmentation, 2007 to 2012 (Everingham et al., IJCV 2010), and 2012_aug.

2012_aug adds the labels of the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011), which
`python -m datasets.voc_aug --data_root DIR --download` makes.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Container
from pathlib import Path
from typing import ClassVar

import numpy as np

from datasets.archive import download_and_unpack
from datasets.archive import download_extract as download_extract  # for users of the predecessor
from datasets.base import FileDataset
from datasets.facts import ClassFacts, check_choice, make_label_table, make_palette
from utils.ext_transforms import AnyTransform

# Python would warn that `python -m datasets.voc` runs a module that is already imported.
warnings.filterwarnings("ignore", message="'datasets.voc' found in sys.modules")

CLASS_NAMES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor".split()
)

# The folder in the data root where the archive of each year is unpacked.
FOLDERS = {year: Path("VOCdevkit") / f"VOC{year}" for year in map(str, range(2007, 2013))}
FOLDERS["2011"] = Path("TrainVal") / "VOCdevkit" / "VOC2011"
FOLDERS["2012_aug"] = FOLDERS["2012"]


def voc_cmap(N: int = 256, normalized: bool = False) -> np.ndarray:
    """Colors (N, 3) of the VOC development kit: uint8, or float32 in 0..1 when normalized.

    The bits 3k, 3k+1 and 3k+2 of a class id are bit 7-k of its red, green and blue.
    """
    ids = np.arange(N)
    cmap = np.zeros((N, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            cmap[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return cmap.astype(np.float32) / 255 if normalized else cmap


class VOCSegmentation(FileDataset):
    """VOC in `root`, which holds VOCdevkit/ (for 2011: TrainVal/VOCdevkit/).

    `image_set` is train, val or trainval; for 2007, whose test labels are published, also test.
    `2012_aug` trains on all labels in SegmentationClassAug that are not in val.txt (10,582 images)
    and validates on val.txt with the labels in SegmentationClass; its trainval is both.
    """

    facts = ClassFacts(
        CLASS_NAMES,
        make_palette(voc_cmap().tolist()),
        make_label_table({i: i for i in range(len(CLASS_NAMES))}),
    )
    cmap, decode_target = voc_cmap(), facts.decode  # as in the predecessor
    splits: ClassVar = ("train", "val", "trainval", "test")
    options: ClassVar = ("year", "download")
    how_to_get: ClassVar = (
        "pass --download to fetch Pascal VOC into it; or, for Cityscapes, pass --dataset "
        "cityscapes and as --data_root the folder of leftImg8bit/ and gtFine/"
    )

    def __init__(
        self,
        root: str | Path,
        year: str = "2012",
        image_set: str = "train",
        download: bool = False,
        transform: AnyTransform | None = None,
        *,
        allow_missing: bool = False,
    ) -> None:
        check_choice("year", year, FOLDERS)
        check_choice(f"image_set for VOC {year}", image_set, image_sets(year))
        if download:
            download_voc(Path(root), year, image_set)
        base = Path(root) / FOLDERS[year]
        labels = _label_files(base, image_set, augmented=year == "2012_aug")
        super().__init__(
            [base / "JPEGImages" / f"{name}.jpg" for name in labels],
            list(labels.values()),
            list(labels),
            transform=transform,
            hint=f"VOC {year} in {base} is not complete",
            allow_missing=allow_missing,
        )

    @classmethod
    def create(
        cls,
        split: str,
        *,
        root: Path,
        allow_missing: bool,
        year: str = "2012",
        download: bool = False,
    ) -> VOCSegmentation:
        return cls(root, year, split, download, allow_missing=allow_missing)

    @property
    def masks(self) -> list[Path]:
        """The label files."""
        return self.labels or []


def image_sets(year: str) -> tuple[str, ...]:
    """The splits that have labels."""
    return ("train", "val", "trainval") + (("test",) if year == "2007" else ())


def _split_file(base: Path, image_set: str) -> Path:
    return base / "ImageSets" / "Segmentation" / f"{image_set}.txt"


def read_split(base: Path, image_set: str) -> list[str]:
    """The names in a split file of `base`, which is VOCdevkit/VOC2012 or another year."""
    path = _split_file(base, image_set)
    if not path.is_file():
        top = "TrainVal/VOCdevkit/" if base.name == "VOC2011" else "VOCdevkit/"
        raise FileNotFoundError(
            f"no split file {path}; --data_root must hold {top}, or pass --download"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"split file {path} is not UTF-8; it must list one image name per line"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"split file {path} is empty; it must list one image name per line")
    return names


def label_names(folder: Path) -> list[str]:
    """Names of the label files in a folder, sorted."""
    stems = (name[:-4] for name in os.listdir(folder) if name.endswith(".png"))
    # Archives from macOS leave "._name.png" beside the files.
    return sorted(stem for stem in stems if not stem.startswith("."))


def download_voc(root: Path, year: str, image_set: str) -> None:
    """Fetch the archive in torchvision's table and unpack it, unless its split file exists."""
    base = root / FOLDERS[year]
    if _split_file(base, image_set).is_file():
        return
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # takes a second, and few runs need it

    key = "2007-test" if image_set == "test" else year.removesuffix("_aug")
    archive = DATASET_YEAR_DICT[key]
    download_and_unpack(
        archive["url"],
        root / Path(archive["url"]).name,
        md5=archive["md5"],
        member=FOLDERS[year],
        target=base,
        last=("ImageSets",),
    )


def _label_files(base: Path, image_set: str, *, augmented: bool) -> dict[str, Path]:
    """Label file of each image name."""
    own = base / "SegmentationClass"
    if not augmented or image_set == "val":
        return {name: own / f"{name}.png" for name in read_split(base, image_set)}
    validation = {name: own / f"{name}.png" for name in read_split(base, "val")}
    more = validation if image_set == "trainval" else {}
    folder = base / "SegmentationClassAug"
    return {name: folder / f"{name}.png" for name in _augmented_names(folder, validation)} | more


def _augmented_names(folder: Path, validation: Container[str]) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; `python -m datasets.voc_aug --data_root "
            f"{folder.parents[2]} --download` makes its 12,031 labels; or use --year 2012"
        )
    names = [name for name in label_names(folder) if name not in validation]
    if not names:
        raise ValueError(
            f"all labels in {folder} are in val.txt; it must also hold .png labels to train on"
        )
    return names


if __name__ == "__main__":
    print("moved: run python -m datasets.voc_aug --data_root DIR --download", file=sys.stderr)
    sys.exit(2)
