"""Your own images: `images/{train,val,test}/**`, `labels/{train,val,test}/**`, and a class list.

A label has the same relative path as its image, without the suffix. Without split folders, a share
of the images or a split file says which ones validate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

from datasets.base import FileDataset
from datasets.facts import ClassFacts, check_choice
from datasets.folder.class_list import (
    FILE_NAMES,
    HOW_TO_WRITE,
    find_class_list,
    read_class_list,
)
from datasets.folder.label_kind import describe_content, hold_colors
from datasets.folder.pairs import (
    SPLITS,
    find_labels,
    held_out,
    list_images,
    read_split_file,
)
from datasets.image_finder import is_image, walk
from utils.ext_transforms import AnyTransform

LABEL_FOLDERS = ("labels", "annotations", "masks")
# The first name is ours, the others are from ADE20K and COCO.
SPLIT_FOLDERS = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "validation", "val2017"),
    "test": ("test", "testing", "test2017"),
}
VAL_FRACTION = 0.1  # default of --val_fraction
NUM_PROBED = 20  # label files that are read to see which kind they are
LAYOUT = "images/{train,val}/**, labels/{train,val}/** with the same names, and classes.txt"


class Folder(FileDataset):
    """Images and labels in folders of `root`; `split` is train, val or test.

    `facts` come from the class list in `root`. Without split folders in images/, the share
    `val_fraction` of the images validates. With a `split_file`, the folders do not matter. Samples
    are sorted by name. The test split may have no labels.
    """

    splits: ClassVar = SPLITS
    options: ClassVar = ("val_fraction", "split_file")
    how_to_get: ClassVar = f"it must hold {LAYOUT}"

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        val_fraction: float = VAL_FRACTION,
        split_file: Path | None = None,
        transform: AnyTransform | None = None,
        allow_missing: bool = False,
    ) -> None:
        check_choice("split", split, self.splits)
        self.facts = self.read_facts(Path(root))
        images, labels = _find_folders(Path(root))
        if split_file is not None:
            samples = _listed_samples(images, labels, split, split_file, allow_missing)
        elif _split_folders(images):
            samples = _samples_of_folder(images, labels, split, allow_missing)
            if val_fraction != VAL_FRACTION:
                samples.notes.append(f"--val_fraction has no effect: {images} has split folders")
        else:
            samples = _share_of_samples(images, labels, split, val_fraction, allow_missing)
        names, labels_of = sorted(samples.images), samples.labels
        super().__init__(
            [samples.images[name] for name in names],
            None if labels_of is None else [labels_of[name] for name in names],
            names,
            transform=transform,
            hint=f"looked in {images}",
            allow_missing=allow_missing,
        )
        self.notes = samples.notes

    @classmethod
    def create(
        cls,
        split: str,
        *,
        root: Path,
        allow_missing: bool,
        val_fraction: float = VAL_FRACTION,
        split_file: str | None = None,
    ) -> Folder:
        return cls(
            root,
            split,
            val_fraction=val_fraction,
            split_file=Path(split_file) if split_file else None,
            allow_missing=allow_missing,
        )

    @classmethod
    def read_facts(cls, root: Path) -> ClassFacts:
        """What the class list says, with colors only if the label files hold colors."""
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {root}; --data_root must hold {LAYOUT}")
        path, labels = find_class_list(root), _label_folder(root)
        probed = list(islice(filter(is_image, walk(labels)), NUM_PROBED)) if labels else []
        if path is None:
            content = describe_content(probed)
            raise FileNotFoundError(
                f"none of {', '.join(FILE_NAMES)} in {root}; {HOW_TO_WRITE}{content}"
            )
        class_list = read_class_list(path)
        if hold_colors(probed, class_list):
            return class_list.facts
        return replace(class_list.facts, colors=None)


@dataclass
class _Samples:
    """The files of a split by sample name; `labels` is None where there is no ground truth."""

    images: Mapping[str, Path]
    labels: Mapping[str, Path] | None
    notes: list[str] = field(default_factory=list)


def _label_folder(root: Path) -> Path | None:
    """The folder with the labels; one without images does not count, such as COCO's with JSON."""
    there = [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]
    filled = [folder for folder in there if any(map(is_image, walk(folder)))]
    if len(filled) > 1:
        raise ValueError(f"labels are in {' and '.join(map(str, filled))}; keep one of them")
    return next(iter(filled or there), None)


def _find_folders(root: Path) -> tuple[Path, Path]:
    images, labels = root / "images", _label_folder(root)
    if not images.is_dir():
        raise FileNotFoundError(f"no folder {images}; --data_root must hold {LAYOUT}")
    if labels is None:
        raise FileNotFoundError(
            f"no folder {root / 'labels'} (or {', '.join(LABEL_FOLDERS[1:])}); --data_root must "
            f"hold {LAYOUT}"
        )
    return images, labels


def _split_folders(parent: Path) -> dict[str, Path]:
    """The folders of the splits, by the names of `SPLIT_FOLDERS` in any case."""
    folders: dict[str, Path] = {}
    for name in sorted(os.listdir(parent)):
        for split, names in SPLIT_FOLDERS.items():
            if name.lower() in names and (parent / name).is_dir():
                if split in folders:
                    raise ValueError(
                        f"{folders[split]} and {parent / name} are both for {split}; keep one"
                    )
                folders[split] = parent / name
    return folders


def _samples_of_folder(images: Path, labels: Path, split: str, allow_missing: bool) -> _Samples:
    folder = _split_folders(images).get(split)
    if folder is None:
        more = "" if split == "test" else ", put all images in one folder for --val_fraction"
        raise FileNotFoundError(
            f"no folder {images / split}, although other splits have one; make it and "
            f"{labels / split}{more}, or list the images in a --split_file"
        )
    files, others = list_images(folder)
    if not files:
        raise ValueError(
            f"the split {split} is empty: {folder} and the folders in it hold no image"
        )
    notes = _left_out(others, f"files in {folder} without the suffix of an image")
    used = {path.name for path in _split_folders(images).values()}
    beside = [images / n for n in sorted(os.listdir(images)) if n not in used and n[0] != "."]
    notes += _left_out(beside, f"files or folders in {images} that belong to no split")
    label_folder = _split_folders(labels).get(split)
    label_files = {} if label_folder is None else list_images(label_folder)[0]
    if not label_files and split == "test":
        return _Samples(files, None, notes)
    place = label_folder or labels / split
    pairs = find_labels(files, label_files, place=place, allow_missing=allow_missing)
    notes += _without_image(label_files, pairs)
    return _Samples(files, pairs, notes)


def _share_of_samples(
    images: Path, labels: Path, split: str, fraction: float, allow_missing: bool
) -> _Samples:
    if split == "test":
        raise FileNotFoundError(f"no folder {images / split}; make it, or pass a --split_file")
    files, others = list_images(images)
    if not files:
        raise ValueError(f"the data set is empty: {images} and the folders in it hold no image")
    label_files = list_images(labels)[0]
    pairs = find_labels(files, label_files, place=labels, allow_missing=allow_missing)
    validating = held_out(list(files), fraction)
    notes = [
        f"no split folders: {len(validating)} of {len(files)} images validate "
        f"(--val_fraction {fraction:g}, by name)",
        *_left_out(others, f"files in {images} without the suffix of an image"),
        *_without_image(label_files, pairs),
    ]
    chosen = [name for name in files if (name in validating) == (split == "val")]
    return _Samples({n: files[n] for n in chosen}, {n: pairs[n] for n in chosen}, notes)


def _listed_samples(
    images: Path, labels: Path, split: str, split_file: Path, allow_missing: bool
) -> _Samples:
    files, _ = list_images(images)
    names = read_split_file(split_file, files)
    if not names[split]:
        raise ValueError(f"split file {split_file} has no line `{split} NAME`")
    counts = ", ".join(f"{len(listed)} {name}" for name, listed in names.items())
    left = [files[name] for name in files if not any(name in listed for listed in names.values())]
    notes = [f"split by {split_file}: {counts}", *_left_out(left, "images that it does not list")]
    label_files = list_images(labels)[0]
    chosen = {name: files[name] for name in names[split]}
    if split == "test" and not any(name in label_files for name in chosen):
        return _Samples(chosen, None, notes)
    pairs = find_labels(chosen, label_files, place=labels, allow_missing=allow_missing)
    return _Samples(chosen, pairs, notes)


def _left_out(paths: Sequence[Path], what: str) -> list[str]:
    return [f"left out: {len(paths)} {what}, the first: {paths[0]}"] if paths else []


def _without_image(labels: Mapping[str, Path], used: Mapping[str, Path]) -> list[str]:
    taken = set(used.values())
    return _left_out([p for p in labels.values() if p not in taken], "labels without an image")
