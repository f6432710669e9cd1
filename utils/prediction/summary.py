"""The summary: a line for each image, which shows what to label next."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from utils.prediction.pipeline import Work
from utils.runtime.files import atomic_write


@contextmanager
def summary(
    path: Path | None, class_names: Sequence[str]
) -> Iterator[Callable[[Sequence[object]], object]]:
    """What adds a row to the CSV file `path`, which is complete when the block ends."""
    if path is None:
        yield lambda row: None
        return
    with atomic_write(path) as file:
        text = codecs.lookup("utf-8").streamwriter(file, "surrogateescape")
        table = csv.writer(text, lineterminator="\n")
        kinds = [f"{name} {kind}" for kind in ("pixels", "share") for name in class_names]
        table.writerow(["image", "mean confidence", *kinds])
        yield table.writerow


def summary_row(work: Work, num_classes: int) -> list[object]:
    """Image, mean confidence, and pixels and share of each class."""
    pixels = Image.fromarray(work.labels).histogram()[:num_classes]
    shares = [f"{count / work.labels.size:.6f}" for count in pixels]
    return [work.job.image, f"{work.confidence.mean() / 255:.4f}", *pixels, *shares]
