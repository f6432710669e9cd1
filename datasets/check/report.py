"""The check of a data set before training: what it holds, and what would harm the training.

Every sample is loaded as training would load it; `findings.py` judges what was found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from datasets.base import FileDataset, SegmentationDataset
from datasets.check.counts import ClassCounts, label_histogram, map_samples
from datasets.check.findings import (
    TRAIN_SPLITS,
    Finding,
    Problem,
    SplitSummary,
    judge_classes,
    judge_compression,
    judge_copies,
    judge_few,
    judge_labels,
    judge_orientation,
    judge_paths,
    percent,
    unreadable,
)
from datasets.files import DataError, is_lossy, is_turned
from utils.runtime.console import one_line

NUM_SHEET_SAMPLES = 12


@dataclass(frozen=True)
class Report:
    """What `check` found; each line of `problems` and `notes` is a sentence of its own."""

    class_names: Sequence[str]
    splits: dict[str, SplitSummary]
    problems: list[str]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether the data can be trained on."""
        return not self.problems

    @property
    def sheet_samples(self) -> list[tuple[str, int]]:
        """Evenly spread (split, index) for a contact sheet, two thirds of them from training."""
        shares = [3 if name in TRAIN_SPLITS else 1.5 for name in self.splits]
        chosen = []
        for share, (name, split) in zip(shares, self.splits.items(), strict=True):
            count = round(NUM_SHEET_SAMPLES * share / sum(shares))
            spread = spread_evenly(len(split.readable), count)
            chosen += [(name, split.readable[place]) for place in spread]
        return chosen

    def table(self) -> str:
        """A line for each split, then each class with its share of pixels and its images."""
        head = ["class", *(f"{s} {what}" for s in self.splits for what in ("%", "images")), ""]
        rows = [head]
        for number, name in enumerate(self.class_names):
            row = [name]
            for split in self.splits.values():
                pixels, total = int(split.counts.pixels[number]), int(split.counts.pixels.sum())
                row += [percent(pixels / max(total, 1)), str(split.counts.images[number])]
            rows.append([*row, self._flag(number)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{name}: {split.line()}" for name, split in self.splits.items()] + [""]
        for name, *cells, flag in rows:
            numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *numbers, flag]).rstrip())
        return "\n".join(lines)

    def text(self) -> str:
        """Table, problems and notes, and the verdict."""
        lines = [self.table(), ""]
        lines += [one_line(f"problem: {line}") for line in self.problems]
        lines += [one_line(f"note: {line}") for line in self.notes]
        count = f"{len(self.problems)} problem" + "s" * (len(self.problems) != 1)
        lines.append(
            "the data is fit to train on" if self.ok else f"{count}: fix the data before training"
        )
        return "\n".join(lines)

    def _flag(self, number: int) -> str:
        labeled = {n: s.counts.pixels for n, s in self.splits.items() if s.counts.pixels.any()}
        without = [name for name, pixels in labeled.items() if not pixels[number]]
        if not without:
            return ""
        return f"never in {', '.join(without)}" if len(without) < len(labeled) else "never occurs"


def check(
    splits: Mapping[str, SegmentationDataset],
    *,
    num_workers: int,
    sample: int | None = None,
    progress: bool = True,
    skip_bad_files: bool = False,
) -> Report:
    """Load the samples of `splits` (named "train", "val", ...) and judge what is found.

    With `sample`, only that many samples of each split are loaded, evenly spread, and what needs
    all of them is not judged. With `skip_bad_files`, unreadable samples are notes, not problems.
    Raises DataError when a loader process is killed.
    """
    jobs = []
    for name, dataset in splits.items():
        count = len(dataset) if sample is None else min(sample, len(dataset))
        jobs += [(name, index) for index in spread_evenly(len(dataset), count)]
    class_names = next(iter(splits.values())).class_names
    summaries = {
        name: SplitSummary(len(dataset), ClassCounts.none(len(class_names)))
        for name, dataset in splits.items()
    }
    for finding in map_samples(
        partial(_examine, dict(splits), jobs),
        len(jobs),
        name_of=lambda number: splits[jobs[number][0]].sample_name(jobs[number][1]),
        num_workers=num_workers,
        title="checking the data" if progress else None,
    ):
        summaries[finding.split].add(finding)
    always = (judge_labels, judge_compression, judge_orientation, judge_copies)
    judges = [judge(summaries) for judge in always]
    if sample is None:
        judges.append(judge_classes(summaries, class_names))
    else:
        judges += [judge_paths(splits), judge_few(summaries, class_names)]
    lines = unreadable(summaries) if skip_bad_files else map(Problem, unreadable(summaries))
    lines = [*lines, *chain(*judges)]
    problems: list[str] = [line for line in lines if isinstance(line, Problem)]
    notes = [line for line in lines if not isinstance(line, Problem)]
    return Report(class_names, summaries, problems, notes)


def spread_evenly(length: int, count: int) -> list[int]:
    """Up to `count` different indices of a sequence, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def _examine(
    splits: Mapping[str, SegmentationDataset], jobs: Sequence[tuple[str, int]], number: int
) -> Finding:
    split, index = jobs[number]
    dataset = splits[split]
    name = dataset.sample_name(index)
    try:
        image, label = dataset.load(index)
        if image.shape != (*label.shape, 3) or not image.dtype == label.dtype == np.uint8:
            raise DataError(
                f"sample {name}: image {image.shape} {image.dtype} and label {label.shape} "
                f"{label.dtype}; they must be (H, W, 3) and (H, W), both uint8"
            )
        histogram = label_histogram(label, len(dataset.class_names), name)
    except DataError as error:
        return Finding(split, index, name, f"{split}: {error}")
    except Exception as error:  # another data set may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Finding(split, index, name, f"{split}: sample {name}: {reason}")
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    size = (image.shape[1], image.shape[0])
    turned = lossy = False
    if isinstance(dataset, FileDataset):
        turned = is_turned(dataset.images[index])
        lossy = dataset.labels is not None and is_lossy(dataset.labels[index])
    return Finding(split, index, name, None, size, histogram, digest.digest(), turned, lossy)
