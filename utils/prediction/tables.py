"""Tables over all images: the scores against labels, and the summary with a line for each image."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from datasets import DataError
from metrics import StreamSegMetrics
from utils.prediction.labels import Labels
from utils.prediction.pipeline import Work
from utils.runtime.files import atomic_write
from utils.visualizer.scores import class_table


class Scores:
    """Counts how predictions agree with labels; several threads may use it at once."""

    def __init__(self, labels: Labels, class_names: Sequence[str]) -> None:
        self.labels, self.num_images, self._lock = labels, 0, Lock()
        self.metrics = StreamSegMetrics(len(class_names), class_names=class_names)

    def count(self, work: Work) -> str:
        """Count one image; returns why its label can't be used, or nothing."""
        predicted = work.labels
        try:
            label = self.labels.read(work.job.image, predicted.shape)
        except DataError as error:
            return f"not scored: {error}"
        with self._lock:
            self.metrics.update(label, predicted)
            self.num_images += 1
        return ""

    def report(self) -> str:
        """The table of the classes and the mean scores."""
        results = self.metrics.get_results()
        table, means = class_table(self.metrics.class_rows(results)), self.metrics.to_str(results)
        return f"scores of {self.num_images} images\n{table}\n{means.strip()}"


@contextmanager
def summary(path: Path | None, class_names: Sequence[str]) -> Iterator[Callable[[Work], None]]:
    """What adds an image to the CSV file `path`, which is complete when the block ends."""
    if path is None:
        yield lambda work: None
        return
    with atomic_write(path) as file:
        text = codecs.lookup("utf-8").streamwriter(file, "surrogateescape")
        table = csv.writer(text, lineterminator="\n")
        kinds = [f"{name} {kind}" for kind in ("pixels", "share") for name in class_names]
        table.writerow(["image", "mean confidence", *kinds])

        def add(work: Work) -> None:
            if work.is_written:
                shares = [f"{count / sum(work.pixels):.6f}" for count in work.pixels]
                confidence = f"{work.mean_confidence:.6f}"
                table.writerow([work.job.image, confidence, *work.pixels, *shares])

        yield add
