"""Cross entropy and focal loss of full-size logits, averaged over the labelled pixels alone.

Ignored pixels change neither value nor gradient, and a batch without a labelled pixel gives 0
with zero gradients. What training uses, and all other losses, is in criterion.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .functions import cross_entropy_sum, focal_sum, labelled_weight, mean_from_sums


class CrossEntropyLoss(nn.Module):
    """Cross entropy averaged over labelled pixels; `weight`: one factor >= 0 per class."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.register_buffer("weight", checked_class_weights(weight), persistent=False)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = cross_entropy_sum(
            logits, labels, weight=self.weight, ignore_index=self.ignore_index
        )
        return mean_from_sums(total, labelled_weight(labels, self.weight, self.ignore_index))


class FocalLoss(nn.Module):
    """Focal loss averaged over labelled pixels, or summed with size_average=False.

    gamma >= 0 is 2 unless given (the predecessor's was 0, which is cross entropy).
    """

    def __init__(
        self,
        alpha: float = 1,
        gamma: float = 2,
        size_average: bool = True,
        ignore_index: int = 255,
        *,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_focal(gamma=gamma, alpha=alpha)
        self.alpha = alpha
        self.gamma = gamma
        self.size_average = size_average
        self.ignore_index = ignore_index
        self.register_buffer("weight", checked_class_weights(weight), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = focal_sum(
            logits,
            labels,
            gamma=self.gamma,
            alpha=self.alpha,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        if not self.size_average:
            return total
        return mean_from_sums(total, labelled_weight(labels, self.weight, self.ignore_index))


def check_focal(*, gamma: float, alpha: float) -> None:
    """Raise ValueError where these make no focal loss."""
    if not (0 <= gamma < float("inf") and 0 < alpha < float("inf")):
        raise ValueError(
            f"focal loss with gamma {gamma}, alpha {alpha}; gamma must be >= 0 and alpha > 0"
        )


def checked_class_weights(weight: Tensor | None) -> Tensor | None:
    """``weight``, or ValueError where it is no finite number >= 0 per class."""
    if weight is None:
        return None
    weight = weight.detach()
    if weight.ndim != 1 or not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(f"class weights {weight.tolist()}; give one finite number >= 0 per class")
    return weight


def read_class_weights(path: str, class_names: Sequence[str]) -> Tensor | None:
    """Loss weights (C,) from a file with a line `weight  class name` a class; None for "none".

    Text after # is a comment. Every class needs a line, but for those called "unused N": 0.
    """
    if path == "none":
        return None
    weights: dict[str, float] = {name: 0.0 for name in class_names if name.startswith("unused ")}
    if not Path(path).is_file():
        raise FileNotFoundError(f"--class_weights {path}: no such file; give a file, auto or none")
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split("#")[0].split(maxsplit=1)
        if not words:
            continue
        if len(words) != 2 or words[1].strip() not in class_names:
            raise ValueError(
                f"{path}: {line!r} is no `weight  class name`; names: {', '.join(class_names)}"
            )
        try:
            weights[words[1].strip()] = float(words[0])
        except ValueError:
            raise ValueError(f"{path}: {words[0]!r} in {line!r} is no number") from None
    missing = [name for name in class_names if name not in weights]
    if missing:
        raise ValueError(f"{path}: no weight for {', '.join(missing)}; every class needs a line")
    return torch.tensor([weights[name] for name in class_names])
