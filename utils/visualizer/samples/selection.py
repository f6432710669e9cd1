"""Samples: the validation images that a run shows, with what the network made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

MAX_WIDTH = 512  # pixels of a sample; wider ones are scaled down


@dataclass(frozen=True)
class ValidatedSample:
    """A validation image, its labels, and the network's prediction, at most 512 pixels wide.

    The numbers are those of the whole image, before it was scaled.
    """

    name: str
    image: np.ndarray  # (H, W, 3) uint8
    target: np.ndarray  # (H, W) uint8, class ids; 255 is ignored
    prediction: np.ndarray  # (H, W) uint8
    miou: float  # over the classes in the target; NaN without labeled pixels
    wrong: float  # share of the labeled pixels, 0..1; NaN without labeled pixels
    scale: float = 1.0  # of this picture, against the image's own size
    is_fixed: bool = True  # shown after every validation, unlike the worst and the best image

    @property
    def verdict(self) -> str:
        """Its numbers in words."""
        if math.isnan(self.miou):
            return "no labels"
        return f"mIoU {self.miou:.3f}, {100 * self.wrong:.1f} % wrong"

    def scaled(self, max_width: int = MAX_WIDTH) -> ValidatedSample:
        """This sample at most `max_width` wide; labels are scaled by nearest neighbor."""
        height, width = self.target.shape
        if width <= max_width:
            return self
        size = (max_width, max(round(height * max_width / width), 1))
        nearest, box = Image.Resampling.NEAREST, Image.Resampling.BOX
        return replace(
            self,
            image=np.asarray(Image.fromarray(self.image).resize(size, box)),
            target=np.asarray(Image.fromarray(self.target).resize(size, nearest)),
            prediction=np.asarray(Image.fromarray(self.prediction).resize(size, nearest)),
            scale=self.scale * max_width / width,
        )


def image_scores(counts: np.ndarray) -> tuple[float, float]:
    """Mean IoU over the classes in the target, and share of wrong pixels, of one image's counts.

    `counts` are pixels, int64 (C, C); row: ground truth, column: prediction.
    """
    hits, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present = truth > 0
    if not present.any():
        return math.nan, math.nan
    iou = hits[present] / (truth + predicted - hits)[present]
    return float(iou.mean()), float(1 - hits.sum() / truth.sum())


class SampleSelection:
    """Chooses up to `num_samples` of a validation's images: fixed ones, the worst and the best.

    `indices` are all images that will come. A quarter to a half of a few samples, and two of many,
    are left to the worst and the best image, by the mean IoU over the classes in the image.
    """

    def __init__(self, indices: Sequence[int], num_samples: int) -> None:
        num_extremes = 0 if len(indices) <= num_samples else min(2, num_samples // 2)
        num_fixed = min(num_samples - num_extremes, len(indices))
        places = np.linspace(0, len(indices) - 1, num_fixed).astype(int)
        self._fixed_indices = {indices[place] for place in places}
        self._fixed: list[ValidatedSample] = []
        self._signs = (1, -1)[:num_extremes]  # the smallest signed score wins
        self._extremes: dict[int, ValidatedSample] = {}  # by sign

    def add(self, index: int, miou: float, make: Callable[[], ValidatedSample]) -> None:
        """Look at one image; `make` is called if it is to be shown."""
        if index in self._fixed_indices:
            self._fixed.append(make().scaled())
        elif not math.isnan(miou):
            old = self._extremes
            wins = [s for s in self._signs if s not in old or s * miou < s * old[s].miou]
            if wins:
                made = replace(make().scaled(), is_fixed=False)
                self._extremes.update(dict.fromkeys(wins, made))

    def samples(self) -> list[ValidatedSample]:
        """Fixed ones in the order of the data set, then the worst and the best of the others."""
        extremes = [self._extremes[sign] for sign in self._signs if sign in self._extremes]
        return [*self._fixed, *{sample.name: sample for sample in extremes}.values()]


def worst_first(samples: Sequence[ValidatedSample]) -> list[ValidatedSample]:
    """The samples by their mean IoU; those without labels come last."""
    return sorted(samples, key=lambda s: (math.isnan(s.miou), s.miou))


def rows_of_interest(samples: Sequence[ValidatedSample]) -> list[ValidatedSample]:
    """At most four of a validation's samples: two fixed ones, the worst, and the best."""
    ranked = [s for s in worst_first(samples) if not math.isnan(s.miou)]
    ends = [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked
    fixed = [s for s in samples if s.is_fixed and all(s is not end for end in ends)]
    return [*fixed[:2], *ends]
