"""How many pixels and images each class has, and the class weights that follow.

Counting reads every label once, in several processes. The counts for class weights are kept in a
file beside the data, under a fingerprint of the label files, for the next run.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from datasets.base import FileDataset, SegmentationDataset
from datasets.files import DataError
from datasets.loader.loaders import WatchedLoader, own_generator, start_worker
from datasets.loader.workers import PREFETCH, WorkerError
from utils.runtime.files import open_regular, write_bytes
from utils.utils import IGNORE_INDEX

Result = TypeVar("Result")

KEPT_NAME = ".class_counts.json"
KEPT_FORMAT = 1
MAX_KEPT = 16  # entries, such as splits and years of one data set; the oldest are dropped


@dataclass
class ClassCounts:
    """What occurs in the labels of some images; the arrays are (C,) int64, by train id."""

    pixels: np.ndarray
    image_pixels: np.ndarray  # labeled pixels of the images that hold the class
    images: np.ndarray  # that hold the class
    num_images: int = 0
    ignored: int = 0  # pixels

    @classmethod
    def none(cls, num_classes: int) -> ClassCounts:
        """The counts before any label."""
        pixels, image_pixels, images = np.zeros((3, num_classes), np.int64)
        return cls(pixels, image_pixels, images)

    def add(self, histogram: np.ndarray) -> None:
        """Count a label with this `histogram` (256,) of train ids."""
        pixels = histogram[: len(self.pixels)]
        present = pixels > 0
        self.pixels += pixels
        self.image_pixels += present * pixels.sum(dtype=np.int64)
        self.images += present
        self.num_images += 1
        self.ignored += int(histogram[IGNORE_INDEX])


def count_classes(
    dataset: SegmentationDataset,
    *,
    num_workers: int,
    progress: bool = True,
    skip_bad_files: bool = False,
) -> ClassCounts:
    """Count the labels of all samples; images are read only if a data set has no label files.

    A label that cannot be read is a DataError or, with `skip_bad_files`, not counted.
    """
    counts = ClassCounts.none(len(dataset.class_names))
    for found in map_samples(
        partial(_label_histogram_or_error, dataset),
        len(dataset),
        name_of=dataset.sample_name,
        num_workers=num_workers,
        title="counting classes" if progress else None,
    ):
        if not isinstance(found, str):
            counts.add(found)
        elif not skip_bad_files:
            raise DataError(found)
    return counts


def label_histogram(label: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    """Pixels (256,) int64 of each train id in a label (H, W) uint8; DataError for a wrong id."""
    histogram = np.bincount(label.reshape(-1), minlength=256)
    wrong = np.flatnonzero(histogram[num_classes:IGNORE_INDEX]) + num_classes
    if len(wrong):
        raise DataError(
            f"the label of sample {name} has train id {wrong[0]}; allowed: 0..{num_classes - 1} "
            f"and {IGNORE_INDEX} (ignored)"
        )
    return histogram


def median_frequency_weights(counts: ClassCounts) -> np.ndarray:
    """Loss weights (C,) float32 after Eigen and Fergus (ICCV 2015, section 6.3.1).

    The frequency of a class is its share of the labeled pixels in the images that hold it. Its
    weight is the median of all frequencies divided by its own, or 0 if it never occurs.
    """
    present = counts.pixels > 0
    if not present.any():
        raise ValueError(
            "the training set has no labeled pixel to compute class weights from; run --check_data"
        )
    frequency = counts.pixels / np.maximum(counts.image_pixels, 1)
    weights = np.zeros(len(frequency))
    weights[present] = np.median(frequency[present]) / frequency[present]
    return weights.astype(np.float32)


def class_weights(
    dataset: SegmentationDataset,
    *,
    kept_in: Path,
    num_workers: int,
    progress: bool = True,
    skip_bad_files: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Median frequency weights (C,) float32 of `dataset`, and notes for the user.

    The counts are kept in `kept_in`/.class_counts.json, until a label file or the class list
    changes. A data set without label files is counted each time.
    """
    kept = KeptCounts(kept_in / KEPT_NAME)
    key = _fingerprint(dataset, kept_in) if isinstance(dataset, FileDataset) else None
    counts = kept.find(key, len(dataset.class_names))
    how = f"counts of {kept.path}"
    if counts is None:
        counts = count_classes(
            dataset, num_workers=num_workers, progress=progress, skip_bad_files=skip_bad_files
        )
        how = f"counted in {counts.num_images} labels, {_keep(kept, key, counts, len(dataset))}"
    weights = median_frequency_weights(counts)
    pairs = zip(dataset.class_names, weights.tolist(), strict=True)
    notes = [f"class weights ({how}): " + ", ".join(f"{n} {w:.3g}" for n, w in pairs)]
    absent = [n for n, p in zip(dataset.class_names, counts.pixels, strict=True) if p == 0]
    if absent:
        notes.append(f"never in the training set, so of class weight 0: {', '.join(absent)}")
    return weights, notes


class KeptCounts:
    """A small JSON file of counts by fingerprint; a damaged file is read as empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, key: str | None, num_classes: int) -> ClassCounts | None:
        """The counts kept under `key`, or None."""
        entry = self._entries().get(key or "")
        if entry is None:
            return None
        try:
            arrays = {k: np.array(entry[k], np.int64) for k in ("pixels", "image_pixels", "images")}
            if any(a.shape != (num_classes,) or a.min() < 0 for a in arrays.values()):
                return None
            return ClassCounts(**arrays, num_images=entry["num_images"], ignored=entry["ignored"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def add(self, key: str, counts: ClassCounts) -> None:
        """Keep `counts` under `key`."""
        values = {k: getattr(v, "tolist", lambda v=v: v)() for k, v in vars(counts).items()}
        others = [item for item in self._entries().items() if item[0] != key]
        entries = dict([*others[1 - MAX_KEPT :], (key, values)])
        if self.path.exists() and not self.path.is_file():
            raise OSError(errno.EEXIST, "it is not a regular file")
        text = json.dumps({"format": KEPT_FORMAT, "entries": entries})
        write_bytes(self.path, text.encode())

    def _entries(self) -> dict[str, Any]:
        try:
            with open_regular(self.path) as file:
                content = json.load(file)
            return dict(content["entries"]) if content["format"] == KEPT_FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}


def _keep(kept: KeptCounts, key: str | None, counts: ClassCounts, num_samples: int) -> str:
    """Keep the counts if possible, and say whether they are kept."""
    if key is None:
        return "not kept: this data set has no label files"
    if counts.num_images < num_samples:
        return f"not kept: {num_samples - counts.num_images} labels could not be read"
    try:
        kept.add(key, counts)
    except OSError as error:
        return f"not kept: {kept.path}: {error.strerror or error}"
    return f"kept in {kept.path}"


def _fingerprint(dataset: FileDataset, base: Path) -> str:
    """A digest of what the counts depend on: label files by path, size and time, and classes."""
    digest = hashlib.sha256(dataset.facts.label_table.tobytes())
    colors = sorted((dataset.facts.colors or {}).items())
    digest.update(repr((type(dataset).__name__, list(dataset.class_names), colors)).encode())
    for path in dataset.labels or ():
        # Relative, so that the counts stay valid when the whole folder is moved.
        shown = path.relative_to(base) if path.is_relative_to(base) else path.absolute()
        try:
            facts = path.stat()
        except OSError:
            continue  # reported when it is loaded; then the counts are not kept
        digest.update(repr((shown.as_posix(), facts.st_size, facts.st_mtime_ns)).encode())
    return digest.hexdigest()


def _label_histogram_or_error(dataset: SegmentationDataset, index: int) -> np.ndarray | str:
    """The histogram of the label of a sample, or the line that says why there is none."""
    try:
        label = dataset.load_label(index) if isinstance(dataset, FileDataset) else None
        if label is None:
            label = dataset.load(index)[1]
        return label_histogram(label, len(dataset.class_names), dataset.sample_name(index))
    except DataError as error:
        return str(error)


def map_samples(
    function: Callable[[int], Result],
    num_samples: int,
    *,
    name_of: Callable[[int], str],
    num_workers: int,
    title: str | None,
) -> Iterator[Result]:
    """Yield `function(0)`, `function(1)`, ... in order, computed in loader processes.

    `function` must be picklable. With a `title`, terminals show a progress bar. A killed process
    becomes a DataError that says where it happened.
    """
    num_workers = min(num_workers, num_samples)
    loader = WatchedLoader(
        range(num_samples),  # type: ignore[arg-type]  # any sequence will do
        batch_size=None,
        collate_fn=function,  # type: ignore[arg-type]
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=own_generator(),
    )
    results = iter(loader)
    for number in tqdm(
        range(num_samples), desc=title, leave=False, disable=None if title else True
    ):
        try:
            result = next(results)
        except WorkerError as error:
            raise DataError(
                f"a loader process died at one of the {PREFETCH * num_workers} samples from "
                f"{name_of(number)} on, perhaps out of memory; --num_workers 0 shows which one"
            ) from error
        yield result
