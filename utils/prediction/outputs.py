"""The files that a prediction becomes: which ones are asked for, and what is in them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.cityscapes import Cityscapes
from utils.options import PredictOptions
from utils.prediction.pipeline import Work
from utils.runtime.files import atomic_write
from utils.visualizer import pictures

ENDINGS = {
    "mask": ".png",
    "label_ids": ".png",
    "overlay": "_overlay.jpg",
    "rgb": "_rgb.png",
    "confidence": "_confidence.png",
}
# Narrower overlays have no legend. With more classes than that, it shows only those that occur.
LEGEND_WIDTH = 200
LEGEND_CLASSES = 30


def kinds_of(opts: PredictOptions) -> dict[str, tuple[Path, str]]:
    """The folder and the ending of each kind of file that is asked for, the masks first.

    Beside the files of `--label_ids` the server wants nothing else, so pictures have a folder of
    their own.
    """
    masks, output = "label_ids" if opts.label_ids else "mask", Path(opts.output)
    beside = Path(os.path.abspath(output) + "_pictures") if opts.label_ids else output
    wanted = [kind for kind in ("overlay", "rgb", "confidence") if getattr(opts, kind)]
    return {masks: (output, ENDINGS[masks])} | {kind: (beside, ENDINGS[kind]) for kind in wanted}


class Outputs:
    """Draws and writes the files of each image; several threads may use it at once."""

    def __init__(
        self, class_names: Sequence[str], palette: np.ndarray, *, alpha: float, contours: bool
    ) -> None:
        self.class_names, self.palette = class_names, palette
        self.alpha, self.contours = alpha, contours
        self._legends: dict[int, np.ndarray] = {}  # of all classes, by width
        self._draw = {
            "mask": self._mask,
            "label_ids": lambda work: Cityscapes.to_label_ids(work.labels),
            "overlay": self._overlay,
            "rgb": lambda work: self._mask(work).convert("RGB"),
            "confidence": lambda work: work.confidence,
        }

    def write(self, work: Work) -> None:
        """Write the files of one image, each atomically; OSError names the file."""
        for kind, path in work.job.files.items():
            pictures.save_image(path, self._draw[kind](work))

    def _mask(self, work: Work) -> Image.Image:
        return pictures.mask(work.labels, self.palette)

    def _overlay(self, work: Work) -> np.ndarray:
        mixed = pictures.overlay(
            work.image, work.labels, self.palette, alpha=self.alpha, contours=self.contours
        )
        width = mixed.shape[1]
        return mixed if width < LEGEND_WIDTH else np.concatenate([mixed, self._legend(work, width)])

    def _legend(self, work: Work, width: int) -> np.ndarray:
        """The same for all images of a width, as films need it, unless there are many classes."""
        if len(self.class_names) > LEGEND_CLASSES:
            ids = np.unique(work.labels).tolist()
            return pictures.legend(self.class_names, self.palette, ids, width)
        if width not in self._legends:
            ids = list(range(len(self.class_names)))
            self._legends[width] = pictures.legend(self.class_names, self.palette, ids, width)
        return self._legends[width]


def pack(path: Path, files: Iterable[Path], *, folder: Path) -> int:
    """Put the `files` that exist into a zip archive, under their names below `folder`."""
    there = [file for file in files if file.exists()]
    with atomic_write(path) as target, zipfile.ZipFile(target, "w") as archive:
        for file in there:
            archive.write(file, file.relative_to(folder).as_posix())
    return len(there)
