"""The labels that predictions are scored against: which file belongs to which image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets import DataError, files
from datasets.cityscapes import IMAGE_SUFFIX, Cityscapes
from datasets.facts import ClassFacts, make_label_table, make_palette
from datasets.folder.class_list import find_class_list, read_class_list
from datasets.folder.dataset import NUM_PROBED
from datasets.folder.label_kind import hold_colors
from datasets.folder.pairs import find_labels, list_images, normalized
from utils.prediction.sources import Job
from utils.runtime.console import say

CITYSCAPES_IDS = "_labelIds"  # how the names of its files with the original ids end


@dataclass(frozen=True)
class Labels:
    """The label file of each image, and what its values mean."""

    files: Mapping[Path, Path]  # by image
    facts: ClassFacts

    @classmethod
    def find(cls, folder: Path, jobs: Sequence[Job], class_names: Sequence[str]) -> Labels:
        """The labels below `folder`: they have the names of the images, perhaps with an ending.

        Values are class ids. Where a class list of these classes is beside the labels, or above
        them, it says what values and colors mean; Cityscapes' `_labelIds` are its original ids.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"--labels {folder} is not a folder")
        labels = list_images(folder)[0]
        original = {name: path for name, path in labels.items() if name.endswith(CITYSCAPES_IDS)}
        names = {job.image: _name(job) for job in jobs}
        images = {name: image for image, name in names.items()}
        found = find_labels(images, original or labels, place=folder, allow_missing=True)
        if original and tuple(class_names) == Cityscapes.facts.class_names:
            facts = Cityscapes.facts
        else:
            facts = _facts(folder, list(labels.values()), class_names)
        return cls({image: found[name] for image, name in names.items()}, facts)

    def read(self, image: Path, size: tuple[int, ...]) -> np.ndarray:
        """The label (H,W) uint8 of an image of `size` (H,W); DataError where it does not fit."""
        path = self.files[image]
        label = files.read_label(path, self.facts.label_table, colors=self.facts.colors)
        if label.shape != size:
            (height, width), (rows, columns) = label.shape, size
            raise DataError(f"label {path} is {width}x{height}, but {image} is {columns}x{rows}")
        if files.is_turned(image):
            raise DataError(f"{image} asks to be turned, but its label belongs to stored pixels")
        return label


def _name(job: Job) -> str:
    name = normalized(job.place.with_suffix("").as_posix())
    return name.removesuffix(IMAGE_SUFFIX)


def _facts(folder: Path, labels: Sequence[Path], class_names: Sequence[str]) -> ClassFacts:
    """By the class list beside or above the labels, if it is of the same classes; else ids."""
    for place in (folder, *folder.absolute().parents[:2]):
        path = find_class_list(place)
        if path is None:
            continue
        found = read_class_list(path)
        if found.facts.class_names == tuple(class_names):
            has_colors = hold_colors(labels[:NUM_PROBED], found)
            return found.facts if has_colors else replace(found.facts, colors=None)
        say(f"{path} lists other classes than the checkpoint; labels are read as its class ids")
        break
    table = make_label_table({index: index for index in range(len(class_names))})
    return ClassFacts(tuple(class_names), make_palette([(0, 0, 0)]), table)
