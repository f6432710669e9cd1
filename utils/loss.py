"""Pixel losses averaged over the labelled pixels alone.

Ignored pixels change neither value nor gradient, and a batch without a labelled pixel gives 0
with zero gradients. Each loss is a sum and a count (`sums`), so that several processes can add
both before dividing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES = ("cross_entropy", "focal_loss")


def _checked(
    logits: Tensor, labels: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give logits in at least float32, labels as int64, weights like the logits."""
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "they must be (N, C, H, W) and (N, H, W)"
        )
    if labels.is_floating_point():
        raise ValueError(f"labels are of type {labels.dtype}; give integer class ids")
    if weight is not None and len(weight) != logits.shape[1]:
        raise ValueError(
            f"{len(weight)} class weights for {logits.shape[1]} classes; give one per class"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, labels.long(), None if weight is None else weight.to(logits)


def _labelled_weight(labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """The number of labelled pixels, or the sum of their class weights; without a device wait."""
    labelled = labels != ignore_index
    if weight is None:
        return labelled.sum()
    return (weight[torch.where(labelled, labels, 0)] * labelled).sum()


def cross_entropy_sums(
    logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Sum the cross entropy over labelled pixels, and what to divide it by for their mean.

    logits (N, C, ...) of any float type, labels (N, ...) of any integer type. The second is the
    number of labelled pixels or, with weights, the sum of their weights.
    """
    logits, labels, weight = _checked(logits, labels, weight)
    total = F.cross_entropy(
        logits, labels, weight=weight, ignore_index=ignore_index, reduction="sum"
    )
    return total, _labelled_weight(labels, weight, ignore_index)


def focal_sums(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor]:
    """Sum alpha * w_y * (1 - p_y)**gamma * -log(p_y); otherwise as cross_entropy_sums.

    Lin et al., Focal Loss for Dense Object Detection, 2017, with the softmax's p_y.
    """
    logits, labels, weight = _checked(logits, labels, weight)
    # 0 at ignored pixels, with zero gradient.
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    # A power below 1 has no finite slope at 0, where p_y is 1; the clamp gives it slope 0 there.
    missing = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(logits.dtype).tiny)
    focal = alpha * missing**gamma * cross_entropy
    if weight is not None:
        focal = focal * weight[torch.where(labels != ignore_index, labels, 0)]
    return focal.sum(), _labelled_weight(labels, weight, ignore_index)


def mean_from_sums(total: Tensor, count: Tensor) -> Tensor:
    """Divide; 0, with the graph intact, where nothing was counted."""
    return total / torch.where(count > 0, count, 1)


class CrossEntropyLoss(nn.Module):
    """Cross entropy averaged over labelled pixels; `weight`: one factor >= 0 per class."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.register_buffer("weight", _class_weights(weight), persistent=False)
        self.ignore_index = ignore_index

    def sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over labelled pixels, and what divides it."""
        return cross_entropy_sums(
            logits, labels, weight=self.weight, ignore_index=self.ignore_index
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return mean_from_sums(*self.sums(logits, labels))


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
        if not (0 <= gamma < float("inf") and 0 < alpha < float("inf")):
            raise ValueError(
                f"focal loss with gamma {gamma}, alpha {alpha}; gamma must be >= 0 and alpha > 0"
            )
        self.alpha = alpha
        self.gamma = gamma
        self.size_average = size_average
        self.ignore_index = ignore_index
        self.register_buffer("weight", _class_weights(weight), persistent=False)

    def sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over labelled pixels, and what divides it for their mean."""
        return focal_sums(
            logits,
            labels,
            gamma=self.gamma,
            alpha=self.alpha,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        total, count = self.sums(logits, labels)
        return mean_from_sums(total, count) if self.size_average else total


def _class_weights(weight: Tensor | None) -> Tensor | None:
    if weight is None:
        return None
    weight = weight.detach()
    if weight.ndim != 1 or not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(f"class weights {weight.tolist()}; give one finite number >= 0 per class")
    return weight


def create_loss(
    name: str,
    *,
    focal_gamma: float = 2.0,
    focal_alpha: float = 1.0,
    class_weights: Tensor | None = None,
    ignore_index: int = 255,
) -> CrossEntropyLoss | FocalLoss:
    """Build the loss `name`, one of LOSSES; the focal numbers are for focal_loss alone."""
    if name == "cross_entropy":
        return CrossEntropyLoss(class_weights, ignore_index)
    if name == "focal_loss":
        return FocalLoss(focal_alpha, focal_gamma, ignore_index=ignore_index, weight=class_weights)
    raise ValueError(f"unknown loss {name!r}; choose from {', '.join(LOSSES)}")


def read_class_weights(path: str, class_names: Sequence[str]) -> Tensor | None:
    """Loss weights (C,) from a file with a line `weight  class name` a class; None for "none".

    Text after # is a comment. Every class needs a line, but for those called "unused N": 0.
    """
    if path == "none":
        return None
    weights: dict[str, float] = {name: 0.0 for name in class_names if name.startswith("unused ")}
    if not Path(path).is_file():
        raise FileNotFoundError(f"--class_weights {path}: no such file; give a file, or none")
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
