"""What the samples of a data set hold, and which problems and notes follow from it.

A problem harms the training or makes its scores wrong; a note is worth knowing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from datasets.base import FileDataset, SegmentationDataset
from datasets.check.counts import ClassCounts
from utils.runtime.console import list_names

TRAIN_SPLITS = ("train", "train_extra", "trainval")  # splits to train on
MAX_LINES = 20  # listed unreadable files


class Finding(NamedTuple):
    """What one sample holds; only the first four fields count if there is an `error`."""

    split: str
    index: int  # type: ignore[assignment]  # nobody needs the method of tuple
    name: str
    error: str | None = None
    size: tuple[int, int] = (0, 0)  # W, H
    histogram: np.ndarray = np.zeros(256, np.int64)  # pixels by train id
    digest: bytes = b""  # of the RGB pixels
    turned: bool = False  # by an EXIF orientation
    lossy: bool = False  # the label is a JPEG, or of another type that changes values


@dataclass
class SplitSummary:
    """The findings of one split, added up."""

    num_samples: int
    counts: ClassCounts
    errors: list[str] = field(default_factory=list)
    readable: list[int] = field(default_factory=list)  # indices
    unlabeled: list[str] = field(default_factory=list)  # names of images with ignored pixels only
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # of (W, H)
    same_pixels: dict[bytes, list[str]] = field(default_factory=dict)  # names by image content
    num_turned: int = 0  # images with an EXIF orientation
    lossy: list[str] = field(default_factory=list)  # names of samples with such labels

    def add(self, finding: Finding) -> None:
        if finding.error is not None:
            self.errors.append(finding.error)
            return
        self.readable.append(finding.index)
        self.num_turned += finding.turned
        self.lossy += [finding.name] * finding.lossy
        if not finding.histogram[: len(self.counts.pixels)].any():
            self.unlabeled.append(finding.name)
        self.counts.add(finding.histogram)
        self.sizes[finding.size] += 1
        self.same_pixels.setdefault(finding.digest, []).append(finding.name)

    def line(self) -> str:
        """The number of samples, their sizes, and the share of ignored pixels."""
        text = _counted(self.num_samples, "image")
        looked_at = len(self.readable) + len(self.errors)
        if looked_at < self.num_samples:
            text = f"{looked_at} of {text} checked"
        sizes = self.sizes
        if not sizes:
            return f"{text}, none of which can be read"
        (width, height), count = sizes.most_common(1)[0]
        text += f", {width}x{height}"
        if len(sizes) > 1:
            text += f" in {count}, widths {_span(w for w, _ in sizes)}"
            text += f", heights {_span(h for _, h in sizes)}"
        share = self.counts.ignored / max(self.counts.ignored + int(self.counts.pixels.sum()), 1)
        return f"{text}; {percent(share)} % of the pixels are ignored"


class Problem(str):
    """A line about what harms the training; other lines are notes."""


def unreadable(splits: Mapping[str, SplitSummary]) -> list[str]:
    """Samples that cannot be read."""
    errors = [error for split in splits.values() for error in split.errors]
    lines = errors[:MAX_LINES]
    if len(errors) > MAX_LINES:
        lines.append(f"{len(errors) - MAX_LINES} more samples cannot be read")
    return lines


def judge_labels(splits: Mapping[str, SplitSummary]) -> Iterator[str]:
    """Splits and images without a labeled pixel."""
    for name, split in splits.items():
        if not split.readable:
            yield Problem(f"{name}: no sample can be read")
        elif len(split.unlabeled) == len(split.readable):
            line = f"{name}: all pixels are ignored, none is labeled"
            yield Problem(line) if name in (*TRAIN_SPLITS, "val") else line
        elif split.unlabeled:
            images = _counted(len(split.unlabeled), "image")
            yield f"{name}: {images} without any labeled pixel: {list_names(split.unlabeled)}"


def judge_compression(splits: Mapping[str, SplitSummary]) -> Iterator[str]:
    """Labels whose values were changed when they were saved, although all of them are classes."""
    for name, split in splits.items():
        if split.lossy:
            labels = _counted(len(split.lossy), "label")
            yield Problem(
                f"{name}: {labels} saved as JPEG or another type that changes values, whatever "
                f"the file name says: {list_names(split.lossy)}; make them anew as PNG"
            )


def judge_copies(splits: Mapping[str, SplitSummary]) -> Iterator[str]:
    """Images with the same pixels, in two splits or in one."""
    for (first, a), (second, b) in combinations(splits.items(), 2):
        shared = [key for key in a.same_pixels if key in b.same_pixels]
        pairs = [f"{a.same_pixels[key][0]} = {b.same_pixels[key][0]}" for key in shared]
        if pairs:
            images = _counted(len(pairs), "image")
            line = f"{images} in both {first} and {second}: {list_names(pairs)}"
            if _must_differ(first, second):
                line = Problem(f"{line}; scores would be too good: remove them from one split")
            yield line
    for name, split in splits.items():
        groups = [" = ".join(names[:3]) for names in split.same_pixels.values() if len(names) > 1]
        if groups:
            yield f"{name}: {_counted(len(groups), 'image')} more than once: {list_names(groups)}"


def judge_paths(splits: Mapping[str, SegmentationDataset]) -> Iterator[str]:
    """Files that are in both train and val, without reading them."""
    files = {name: set(d.images) for name, d in splits.items() if isinstance(d, FileDataset)}
    for (first, a), (second, b) in combinations(files.items(), 2):
        if (shared := sorted(a & b)) and _must_differ(first, second):
            yield Problem(
                f"{_counted(len(shared), 'image file')} in both {first} and {second}, the first "
                f"{shared[0]}; scores would be too good"
            )


def _must_differ(first: str, second: str) -> bool:
    """Whether the splits must not share images; trainval holds those of val by definition."""
    return {first, second} in ({"train", "val"}, {"train_extra", "val"})


def judge_orientation(splits: Mapping[str, SplitSummary]) -> Iterator[str]:
    """Images that viewers, and perhaps labeling tools, show turned."""
    if count := sum(split.num_turned for split in splits.values()):
        images = "1 image has" if count == 1 else f"{count} images have"
        yield (
            f"{images} an EXIF orientation; training ignores it, so labels must fit the stored "
            "pixels (predict.py turns images upright)"
        )


def judge_few(splits: Mapping[str, SplitSummary], class_names: Sequence[str]) -> Iterator[str]:
    """What some of the samples suggest about the classes."""
    for split in filter(splits.__contains__, TRAIN_SPLITS):
        found = np.flatnonzero(splits[split].counts.pixels)
        if len(found) == 1:
            yield (
                f"{split}: the only class in the {len(splits[split].readable)} checked images is "
                f"{class_names[found[0]]}; does the class list fit the label files? --check_data "
                "checks all images"
            )


def judge_classes(splits: Mapping[str, SplitSummary], class_names: Sequence[str]) -> Iterator[str]:
    """Classes that never occur; call it only if all samples were checked."""
    occurs: dict[str, set[str]] = {
        split: {name for name, n in zip(class_names, summary.counts.pixels, strict=True) if n}
        for split, summary in splits.items()
    }
    in_order = partial(sorted, key=list(class_names).index)
    if never := in_order(set(class_names).difference(*occurs.values())):
        yield f"{_counted(len(never), 'class', 'classes')} in no label: {list_names(never)}"
    for train in filter(occurs.__contains__, TRAIN_SPLITS):
        if len(occurs[train]) == 1:
            yield Problem(
                f"{train}: all labeled pixels are {occurs[train].pop()}, so there is nothing to "
                "learn; does the class list fit the label files?"
            )
        elif occurs[train] and occurs.get("val"):
            if unseen := in_order(occurs["val"] - occurs[train]):
                yield Problem(f"in val but never in {train}, so not learned: {list_names(unseen)}")
            if unscored := in_order(occurs[train] - occurs["val"]):
                yield f"in {train} but never in val, so not scored: {list_names(unscored)}"


def percent(share: float) -> str:
    """A share 0..1 in percent; only an exact 0 reads 0.00."""
    return "<0.01" if 0 < share < 0.00005 else f"{100 * share:.2f}"


def _span(values: Iterable[int]) -> str:
    values = sorted(values)
    return f"{values[0]}..{values[-1]}"


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
