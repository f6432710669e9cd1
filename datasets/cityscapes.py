"""Cityscapes, fine and coarse annotations (Cordts et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from datasets.base import FileDataset
from datasets.facts import ClassFacts, check_choice, make_label_table, make_palette
from utils.ext_transforms import AnyTransform
from utils.utils import IGNORE_INDEX


class CityscapesClass(NamedTuple):
    """A row of the label definition; `train_id` 255 is ignored."""

    name: str
    id: int
    train_id: int
    category: str
    category_id: int
    has_instances: bool
    ignore_in_eval: bool
    color: tuple[int, int, int]


CLASSES = tuple(
    CityscapesClass(*row)
    for row in (
        ("unlabeled", 0, 255, "void", 0, False, True, (0, 0, 0)),
        ("ego vehicle", 1, 255, "void", 0, False, True, (0, 0, 0)),
        ("rectification border", 2, 255, "void", 0, False, True, (0, 0, 0)),
        ("out of roi", 3, 255, "void", 0, False, True, (0, 0, 0)),
        ("static", 4, 255, "void", 0, False, True, (0, 0, 0)),
        ("dynamic", 5, 255, "void", 0, False, True, (111, 74, 0)),
        ("ground", 6, 255, "void", 0, False, True, (81, 0, 81)),
        ("road", 7, 0, "flat", 1, False, False, (128, 64, 128)),
        ("sidewalk", 8, 1, "flat", 1, False, False, (244, 35, 232)),
        ("parking", 9, 255, "flat", 1, False, True, (250, 170, 160)),
        ("rail track", 10, 255, "flat", 1, False, True, (230, 150, 140)),
        ("building", 11, 2, "construction", 2, False, False, (70, 70, 70)),
        ("wall", 12, 3, "construction", 2, False, False, (102, 102, 156)),
        ("fence", 13, 4, "construction", 2, False, False, (190, 153, 153)),
        ("guard rail", 14, 255, "construction", 2, False, True, (180, 165, 180)),
        ("bridge", 15, 255, "construction", 2, False, True, (150, 100, 100)),
        ("tunnel", 16, 255, "construction", 2, False, True, (150, 120, 90)),
        ("pole", 17, 5, "object", 3, False, False, (153, 153, 153)),
        ("polegroup", 18, 255, "object", 3, False, True, (153, 153, 153)),
        ("traffic light", 19, 6, "object", 3, False, False, (250, 170, 30)),
        ("traffic sign", 20, 7, "object", 3, False, False, (220, 220, 0)),
        ("vegetation", 21, 8, "nature", 4, False, False, (107, 142, 35)),
        ("terrain", 22, 9, "nature", 4, False, False, (152, 251, 152)),
        ("sky", 23, 10, "sky", 5, False, False, (70, 130, 180)),
        ("person", 24, 11, "human", 6, True, False, (220, 20, 60)),
        ("rider", 25, 12, "human", 6, True, False, (255, 0, 0)),
        ("car", 26, 13, "vehicle", 7, True, False, (0, 0, 142)),
        ("truck", 27, 14, "vehicle", 7, True, False, (0, 0, 70)),
        ("bus", 28, 15, "vehicle", 7, True, False, (0, 60, 100)),
        ("caravan", 29, 255, "vehicle", 7, True, True, (0, 0, 90)),
        ("trailer", 30, 255, "vehicle", 7, True, True, (0, 0, 110)),
        ("train", 31, 16, "vehicle", 7, True, False, (0, 80, 100)),
        ("motorcycle", 32, 17, "vehicle", 7, True, False, (0, 0, 230)),
        ("bicycle", 33, 18, "vehicle", 7, True, False, (119, 11, 32)),
        ("license plate", -1, 255, "vehicle", 7, False, True, (0, 0, 142)),
    )
)
TRAIN_CLASSES = tuple(
    sorted((c for c in CLASSES if c.train_id != IGNORE_INDEX), key=lambda c: c.train_id)
)

IMAGE_SUFFIX = "_leftImg8bit"
LABEL_FOLDERS = {"fine": "gtFine", "coarse": "gtCoarse"}
SPLITS = {
    "fine": ("train", "val", "test", "trainval"),
    "coarse": ("train", "val", "trainval", "train_extra"),
}
# Black in the published archive, although it has a label.
BAD_IMAGE = "troisdorf_000000_000073"
LAYOUT = (
    "Cityscapes is laid out as leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and "
    "gtFine/{train,val}/<city>/*_gtFine_labelIds.png (coarse: gtCoarse/<split>/<city>/"
    "*_gtCoarse_labelIds.png)"
)
ARCHIVES = (
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (for train_extra: "
    "leftImg8bit_trainextra.zip and gtCoarse.zip) from cityscapes-dataset.com, login needed,"
)


class Cityscapes(FileDataset):
    """Cityscapes in `root`, which holds leftImg8bit/ and gtFine/ or gtCoarse/.

    `split` is train, val, test or trainval with `mode` "fine"; train, val, trainval or train_extra
    with "coarse". The only `target_type` is "semantic". Samples are sorted by name, those of train
    before those of val. Without gtFine/test the labels of the test split are all 255, as they are
    in the archive. The image troisdorf_000000_000073 of train_extra is left out because it is
    black in the published archive.
    """

    facts = ClassFacts(
        class_names=tuple(c.name for c in TRAIN_CLASSES),
        palette=make_palette([c.color for c in TRAIN_CLASSES]),
        # The license plate, -1, is 255 in an 8-bit file, and ignored.
        label_table=make_label_table({c.id: c.train_id for c in CLASSES}),
    )
    # As in the predecessor; both tables end with what is ignored.
    encode_target, decode_target = facts.encode, facts.decode
    classes = list(CLASSES)
    id_to_train_id = np.array([c.train_id for c in CLASSES])
    train_id_to_color = np.array([*(c.color for c in TRAIN_CLASSES), (0, 0, 0)])
    splits: ClassVar = ("train", "val", "test", "trainval", "train_extra")
    options: ClassVar = ("download",)
    color_jitter: ClassVar = 0.5  # the predecessor's
    how_to_get: ClassVar = f"{LAYOUT} (unpack {ARCHIVES})"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        mode: str = "fine",
        target_type: str = "semantic",
        transform: AnyTransform | None = None,
        *,
        allow_missing: bool = False,
    ) -> None:
        check_choice("target_type", target_type, ("semantic",))
        check_choice("mode", mode, SPLITS)
        check_choice(f"split of the {mode} labels", split, SPLITS[mode])
        parts = ("train", "val") if split == "trainval" else (split,)
        kind = LABEL_FOLDERS[mode]
        with_labels = split != "test" or (Path(root) / kind / split).is_dir()
        _require_folders(
            Path(root), ("leftImg8bit", kind) if with_labels else ("leftImg8bit",), parts
        )
        found = [path for part in parts for path in _images(Path(root) / "leftImg8bit" / part)]
        images = [path for path in found if _stem(path) != BAD_IMAGE]
        labels = [_label_file(Path(root) / kind, path) for path in images] if with_labels else None
        super().__init__(
            images,
            labels,
            [f"{path.parent.name}/{path.stem}" for path in images],
            transform=transform,
            hint=f"{LAYOUT}; looked in {Path(root) / 'leftImg8bit'} for {' and '.join(parts)}",
            allow_missing=allow_missing,
        )
        if len(images) < len(found):
            self.notes.append(
                f"{BAD_IMAGE} is left out because it is black in the published archive"
            )

    @classmethod
    def create(
        cls, split: str, *, root: Path, allow_missing: bool, download: bool = False
    ) -> Cityscapes:
        """As `__init__`; train_extra has coarse labels, the other splits have fine ones."""
        mode = "coarse" if split == "train_extra" else "fine"
        if download:
            raise ValueError(f"--download cannot fetch Cityscapes; unpack {ARCHIVES} in {root}")
        return cls(root, split, mode, allow_missing=allow_missing)

    @property
    def targets(self) -> list[Path]:
        """The label files; none in a split without labels."""
        return self.labels or []

    @staticmethod
    def to_label_ids(train_ids: np.ndarray | Tensor) -> np.ndarray:
        """Train ids of any shape -> the ids of label files, uint8; 255 becomes 0, unlabeled."""
        table = np.zeros(256, dtype=np.uint8)
        table[: len(TRAIN_CLASSES)] = [c.id for c in TRAIN_CLASSES]
        return table[np.asarray(train_ids.cpu() if isinstance(train_ids, Tensor) else train_ids)]


def _images(folder: Path) -> list[Path]:
    found = folder.glob(f"*/*{IMAGE_SUFFIX}.png")
    # Archives from macOS leave "._name.png" beside the files.
    return sorted(path for path in found if not path.name.startswith("."))


def _stem(image: Path) -> str:
    return image.stem.removesuffix(IMAGE_SUFFIX)


def _label_file(labels: Path, image: Path) -> Path:
    split, city = image.parts[-3:-1]
    return labels / split / city / f"{_stem(image)}_{labels.name}_labelIds.png"


def _require_folders(root: Path, kinds: Sequence[str], splits: Sequence[str]) -> None:
    folders = [root / kind / split for kind in kinds for split in splits]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise FileNotFoundError(
            f"no folder {' and no folder '.join(missing)}; {LAYOUT}; unpack {ARCHIVES} in {root}, "
            "or try --dataset shapes, which needs no files"
        )
