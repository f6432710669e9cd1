"""Cityscapes, fine annotations (Cordts et al., CVPR 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

from datasets.base import IGNORE, FileDataset, Transform, make_label_table, make_palette


class CityscapesClass(NamedTuple):
    """One row of the label definition; `train_id` 255 is ignored."""

    name: str
    id: int
    train_id: int
    color: tuple[int, int, int]


CLASSES = tuple(
    CityscapesClass(*row)
    for row in (
        ("unlabeled", 0, 255, (0, 0, 0)),
        ("ego vehicle", 1, 255, (0, 0, 0)),
        ("rectification border", 2, 255, (0, 0, 0)),
        ("out of roi", 3, 255, (0, 0, 0)),
        ("static", 4, 255, (0, 0, 0)),
        ("dynamic", 5, 255, (111, 74, 0)),
        ("ground", 6, 255, (81, 0, 81)),
        ("road", 7, 0, (128, 64, 128)),
        ("sidewalk", 8, 1, (244, 35, 232)),
        ("parking", 9, 255, (250, 170, 160)),
        ("rail track", 10, 255, (230, 150, 140)),
        ("building", 11, 2, (70, 70, 70)),
        ("wall", 12, 3, (102, 102, 156)),
        ("fence", 13, 4, (190, 153, 153)),
        ("guard rail", 14, 255, (180, 165, 180)),
        ("bridge", 15, 255, (150, 100, 100)),
        ("tunnel", 16, 255, (150, 120, 90)),
        ("pole", 17, 5, (153, 153, 153)),
        ("polegroup", 18, 255, (153, 153, 153)),
        ("traffic light", 19, 6, (250, 170, 30)),
        ("traffic sign", 20, 7, (220, 220, 0)),
        ("vegetation", 21, 8, (107, 142, 35)),
        ("terrain", 22, 9, (152, 251, 152)),
        ("sky", 23, 10, (70, 130, 180)),
        ("person", 24, 11, (220, 20, 60)),
        ("rider", 25, 12, (255, 0, 0)),
        ("car", 26, 13, (0, 0, 142)),
        ("truck", 27, 14, (0, 0, 70)),
        ("bus", 28, 15, (0, 60, 100)),
        ("caravan", 29, 255, (0, 0, 90)),
        ("trailer", 30, 255, (0, 0, 110)),
        ("train", 31, 16, (0, 80, 100)),
        ("motorcycle", 32, 17, (0, 0, 230)),
        ("bicycle", 33, 18, (119, 11, 32)),
        ("license plate", -1, 255, (0, 0, 142)),
    )
)
TRAIN_CLASSES = tuple(
    sorted((c for c in CLASSES if c.train_id != IGNORE), key=lambda c: c.train_id)
)

IMAGE_SUFFIX = "_leftImg8bit"
ARCHIVES = {
    "leftImg8bit": "leftImg8bit_trainvaltest.zip",
    "gtFine": "gtFine_trainvaltest.zip",
}
LAYOUT = (
    "Cityscapes is laid out as leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and "
    "gtFine/{train,val}/<city>/*_gtFine_labelIds.png"
)


class Cityscapes(FileDataset):
    """Cityscapes from `root`, which holds leftImg8bit/ and gtFine/; `split` is train, val or test.

    The test split may come without gtFine/test, then its labels are all 255. (The archive has files
    there whose labels are all void: the same.) `mode` "fine" and `target_type` "semantic" are what
    there is. Samples are sorted by name.
    """

    class_names: ClassVar = tuple(c.name for c in TRAIN_CLASSES)
    palette: ClassVar = make_palette([c.color for c in TRAIN_CLASSES])
    # -1, the license plate, is 255 in an 8-bit file and ignored like it.
    label_table: ClassVar = make_label_table({c.id: c.train_id for c in CLASSES})
    splits: ClassVar = ("train", "val", "test")
    how_to_get: ClassVar = (
        f"{LAYOUT} (unpack {ARCHIVES['leftImg8bit']} and {ARCHIVES['gtFine']} from "
        "cityscapes-dataset.com, login needed)"
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        mode: str = "fine",
        target_type: str = "semantic",
        transform: Transform | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}; allowed: {', '.join(self.splits)}")
        if mode != "fine":
            raise ValueError(f"unknown mode {mode!r}; allowed: fine")
        if target_type != "semantic":
            raise ValueError(f"unknown target_type {target_type!r}; allowed: semantic")
        image_folder = _require_folder(Path(root), "leftImg8bit", split)
        found = image_folder.glob(f"*/*{IMAGE_SUFFIX}.png")
        # Archives from macOS leave "._name.png" beside the files.
        images = sorted(path for path in found if not path.name.startswith("."))
        without_labels = split == "test" and not (Path(root) / "gtFine" / split).is_dir()
        labels = None
        if not without_labels:
            label_folder = _require_folder(Path(root), "gtFine", split)
            labels = [label_folder / path.parent.name / _label_name(path) for path in images]
        names = [f"{path.parent.name}/{path.stem}" for path in images]
        hint = f"{LAYOUT}; looked in {image_folder}"
        super().__init__(images, labels, names, transform=transform, seed=seed, hint=hint)

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
    ) -> Cityscapes:
        if download:
            raise ValueError(
                "--download cannot fetch Cityscapes, its site needs a login: get "
                f"{' and '.join(ARCHIVES.values())} from cityscapes-dataset.com and unpack both "
                f"in {root}"
            )
        return cls(root, split, transform=transform, seed=seed)


def _label_name(image: Path) -> str:
    return f"{image.stem.removesuffix(IMAGE_SUFFIX)}_gtFine_labelIds.png"


def _require_folder(root: Path, kind: str, split: str) -> Path:
    folder = root / kind / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; {LAYOUT}: unpack {ARCHIVES[kind]} from cityscapes-dataset.com "
            f"(login needed) in {root}, or try --dataset shapes, which needs no files"
        )
    return folder
