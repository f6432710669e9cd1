"""Scores against labels: which file belongs to which image, and what its values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from datasets import DataError, files
from datasets.cityscapes import IMAGE_SUFFIX, Cityscapes
from datasets.facts import ClassFacts, make_label_table, make_palette
from datasets.folder.class_list import find_class_list, read_class_list
from datasets.folder.dataset import NUM_PROBED
from datasets.folder.label_kind import hold_colors
from datasets.folder.pairs import find_labels, list_images, normalized
from metrics import StreamSegMetrics
from utils.prediction.pipeline import Work
from utils.prediction.sources import Job
from utils.runtime.console import say
from utils.visualizer.terminal import class_table

CITYSCAPES_IDS = "_labelIds"  # how the names of its files with the original ids end


class Scores:
    """Counts how predictions agree with labels; several threads may use it at once.

    The labels are below `folder` and have the names of the images, perhaps with an ending. Values
    are class ids. Where a class list of these classes is beside the labels, or above them, it says
    what values and colors mean; Cityscapes' `_labelIds` are its original ids.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], class_names: Sequence[str]) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"--labels {folder} is not a folder")
        labels = list_images(folder)[0]
        original = {name: path for name, path in labels.items() if name.endswith(CITYSCAPES_IDS)}
        images = {_name(job): job.image for job in jobs}
        found = find_labels(images, original or labels, place=folder, allow_missing=True)
        self.files: Mapping[Path, Path] = {image: found[name] for name, image in images.items()}
        if original and tuple(class_names) == Cityscapes.facts.class_names:
            self.facts = Cityscapes.facts
        else:
            self.facts = _facts(folder, list(labels.values()), class_names)
        self.metrics = StreamSegMetrics(len(class_names), class_names=class_names)
        self.num_images, self._lock = 0, Lock()

    def count(self, work: Work) -> str:
        """Count one image; returns why its label can't be used, or nothing."""
        image, path, (rows, columns) = work.job.image, self.files[work.job.image], work.labels.shape
        try:
            label = files.read_label(path, self.facts.label_table, colors=self.facts.colors)
        except DataError as error:
            return f"not scored: {error}"
        height, width = label.shape
        if (height, width) != (rows, columns):
            return f"not scored: label {path} is {width}x{height}, but {image} is {columns}x{rows}"
        if files.is_turned(image):
            return f"not scored: {image} asks to be turned, but its label belongs to stored pixels"
        with self._lock:
            self.metrics.update(label, work.labels)
            self.num_images += 1
        return ""

    def report(self) -> str:
        """The table of the classes and the mean scores."""
        results = self.metrics.get_results()
        table, means = class_table(self.metrics.class_rows(results)), self.metrics.to_str(results)
        return f"scores of {self.num_images} images\n{table}\n{means.strip()}"


def _name(job: Job) -> str:
    return normalized(job.place.with_suffix("").as_posix()).removesuffix(IMAGE_SUFFIX)


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
