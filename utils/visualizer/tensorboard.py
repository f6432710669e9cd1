"""The tracker of --tensorboard: events in the run's folder, which TensorBoard shows.

Only files are written, so nothing can delay the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .history import NO_SCORES, SCORE
from .samples import ValidatedSample, rows_of_interest, sample_row
from .trackers import Tracker


class TensorBoard(Tracker):
    """Writes scalars `train/...`, `val/...` and `val_iou/<class>`, samples, and the options.

    Args:
        folder: where the events go; a new run deletes an earlier one's.
        resume_step: the step at which the run goes on; what an earlier part wrote after it is
            hidden. None for a new run.
    """

    def __init__(self, folder: Path, *, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if resume_step is None:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)
        self._options: dict[str, str | float | bool] = {}
        self._best = -1.0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._best = max(self._best, values.get(SCORE, -1.0))
        for name, value in values.items():
            is_training = name in NO_SCORES and not name.startswith("validation")
            if name == "wall time" or (is_training and "loss" not in values):
                continue
            group = "train" if is_training else "val"
            self._add(f"{group}/{name.removeprefix('validation ')}", value, step)

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        for row in rows:
            iou = row.get("IoU")
            if isinstance(iou, float) and iou == iou:
                self._add(f"val_iou/{row['class']}", iou, step)

    def _add(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(re.sub(r"[^\w./-]+", "_", tag), value, step)

    def samples(
        self,
        step: int,
        samples: Sequence[ValidatedSample],
        class_names: Sequence[str],
        palette: np.ndarray,
    ) -> None:
        for number, sample in enumerate(rows_of_interest(samples)):
            self.image(f"samples/{number}", step, sample_row(sample, palette))

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def text(self, name: str, rows: Mapping[str, object]) -> None:
        kinds = (str, int, float, bool)
        self._options = {key: value for key, value in rows.items() if isinstance(value, kinds)}

    def close(self) -> None:
        """Write the options beside the best score, and end the file."""
        if self._best >= 0:
            scores = {"hparam/best_mean_iou": self._best}
            self._writer.add_hparams(self._options, scores, run_name=".")
        self._writer.close()
