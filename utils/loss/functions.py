"""The losses as functions of logits (N,C,H,W) and labels (N,H,W) of the same size.

Cross entropy and focal loss are sums over pixels. Dice and Lovasz-softmax measure a set of pixels,
here those of the whole batch. OHEM is the mean cross entropy of the hard pixels of the batch.
Ignored pixels change neither value nor gradient. Without a labeled pixel every loss is 0 with zero
gradients.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.utils import IGNORE_INDEX

from .bands import banded_map, banded_sum


def check_class_weights(weight: Tensor | None) -> Tensor | None:
    """Return `weight`, which must be one finite number >= 0 per class; else a ValueError."""
    if weight is None:
        return None
    weight = weight.detach()
    if weight.ndim != 1 or not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(
            f"class weights are {weight.tolist()}; give one finite number >= 0 per class"
        )
    return weight


def _checked(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits in at least float32, labels as int64, weights like the logits."""
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "they must be (N, C, H, W) and (N, H, W)"
        )
    if labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype}; they must be integer class ids")
    if weight is not None and len(weight) != logits.shape[1]:
        raise ValueError(
            f"there are {len(weight)} class weights for {logits.shape[1]} classes; "
            "give one per class"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, labels.long(), None if weight is None else weight.to(logits)


def labeled_weight(
    labels: Tensor, weight: Tensor | None, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """The number of labeled pixels, or the sum of their class weights.

    The result is float64, but float32 on MPS, which has no float64. The call does not wait for the
    device.
    """
    longest = torch.float32 if labels.device.type == "mps" else torch.float64
    labeled = labels != ignore_index
    if weight is None:
        return labeled.sum().to(longest)
    weight = weight.to(labels.device)
    return (weight[labels.masked_fill(~labeled, 0).long()] * labeled).sum(dtype=longest)


def mean_from_sums(total: Tensor, count: Tensor) -> Tensor:
    """`total / count`, or 0 with a gradient of 0 where nothing was counted."""
    # Not torch.where, which waits for a GPU to get the number 1.
    return total / count.masked_fill(count <= 0, 1).to(total.dtype)


def cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The sum of the cross entropy over labeled pixels; divide it by `labeled_weight` for the mean.

    `logits` (N,C,...) have any float type, `labels` (N,...) any integer type. Class weights and
    smoothing are those of torch.nn.functional.cross_entropy.
    """
    logits, labels, weight = _checked(logits, labels, class_weights)
    return F.cross_entropy(
        logits,
        labels,
        weight=weight,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def focal_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    focal_gamma: float = 2.0,
    focal_alpha: float = 1.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """The sum of alpha * w_y * (1 - p_y)**gamma * -log(p_y); the rest is as in `cross_entropy_sum`.

    Lin et al., Focal Loss for Dense Object Detection, 2017, with the softmax's p_y.
    """
    logits, labels, weight = _checked(logits, labels, class_weights)
    # Ignored pixels are 0 here and have zero gradient.
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    # A power below 1 has an infinite slope at 0, where p_y is 1. The clamp makes that slope 0.
    missing = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(logits.dtype).tiny)
    focal = focal_alpha * missing**focal_gamma * cross_entropy
    if weight is not None:
        focal = focal * weight[labels.masked_fill(labels == ignore_index, 0)]
    return focal.sum()


def label_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """The softmax's p_y of every pixel (N,...); it is 1 at ignored pixels."""
    logits, labels, _ = _checked(logits, labels)
    return (-F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")).exp()


def _as_integers(values: Tensor) -> Tensor:
    """The bits of floats >= 0. They have the same order and sort far faster on a CPU."""
    return values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)


def hard_labels(
    probability: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
) -> Tensor:
    """`labels` with the easy pixels ignored: online hard example mining.

    Two groups of pixels are kept: those whose `probability` p_y (N,H,W) is below `threshold`,
    and the hardest `min_kept` of the labeled ones (a share of them, and any that tie with these).
    Shrivastava et al., Training Region-based Object Detectors with OHEM, 2016. The numbers 0.7 and
    1/16 are customary for pixels since BiSeNet (Yu et al., 2018).
    """
    labeled = labels != IGNORE_INDEX
    ordered = _as_integers(probability.masked_fill(~labeled, torch.inf).flatten()).sort().values
    last_kept = ((labeled.sum() * min_kept).ceil().long() - 1).clamp(min=0)
    hardest = ordered.gather(0, last_kept[None]).view(probability.dtype)
    kept = (probability < threshold) | (probability <= hardest)
    return labels.masked_fill(~kept, IGNORE_INDEX)


def ohem_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean cross entropy of the pixels that `hard_labels` keeps.

    `logits` (N,C,h,w) are smaller than `labels` (N,H,W). They are upsampled twice, in bands:
    to find the hard pixels, and for the loss.
    """
    hard = hard_labels(banded_map(logits, labels, label_probability), labels)
    pixel_sum = partial(
        cross_entropy_sum, class_weights=class_weights, label_smoothing=label_smoothing
    )
    total = banded_sum(logits, hard, pixel_sum)
    return mean_from_sums(total, labeled_weight(hard, class_weights))


def _classes_by_pixel(labels: Tensor, num_classes: int) -> Tensor:
    """Which pixels are labeled as which class: bool (N,C,H,W); ignored pixels are of no class."""
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device).view(-1, 1, 1)


def _mean_of_present(values: Tensor, present: Tensor) -> Tensor:
    """The mean of the `values` (C,) of the classes that are `present` (C,)."""
    return mean_from_sums((values * present).sum(), present.sum())


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - 2 sum(p y) / (sum(p) + sum(y)) over labeled pixels, averaged over the classes present.

    Milletari et al., V-Net, 2016, but without the squares, as in Sudre et al., 2017.
    """
    logits, labels, _ = _checked(logits, labels)
    truth = _classes_by_pixel(labels, logits.shape[1])
    probability = logits.softmax(dim=1) * (labels != IGNORE_INDEX).unsqueeze(1)
    sizes = truth.sum((0, 2, 3))  # (C,)
    overlap = (probability * truth).sum((0, 2, 3))
    # An absent class does not count below; the clamp keeps its quotient finite.
    extent = (probability.sum((0, 2, 3)) + sizes).clamp(min=torch.finfo(logits.dtype).tiny)
    return _mean_of_present(1 - 2 * overlap / extent, sizes > 0)


def _lovasz_slopes(errors: Tensor, truth: Tensor, labeled: Tensor) -> Tensor:
    """The Lovasz extension's slope at every pixel: errors (P,) >= 0, truth and labeled (P,) bool.

    Algorithm 1 of Berman et al. subtracts neighboring Jaccard losses. float32 is too coarse for
    these differences when there are millions of pixels, so each one is written out here: a pixel of
    the class takes one from the intersection, any other pixel adds one to the union.
    """
    # The largest error comes first. Ignored pixels come last, where they change no other's slope.
    order = (-_as_integers(errors)).masked_fill(~labeled, 1).argsort()
    hit = truth[order]
    hits = hit.cumsum(0)
    intersection = (hits[-1:] - hits).to(errors.dtype)
    union = (hits[-1:] + (~hit).cumsum(0)).to(errors.dtype)
    # union - 1 is 0 at a miss only if the class is absent; the intersection is 0 then, too.
    slopes = torch.where(hit, 1 / union, intersection / (union * (union - 1).clamp(min=1)))
    return torch.empty_like(errors).index_copy_(0, order, slopes)


def lovasz_softmax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, averaged over the classes present in the batch.

    Berman et al., The Lovasz-Softmax Loss, 2018. The pixels of all images form one set.
    """
    logits, labels, _ = _checked(logits, labels)
    labeled = labels != IGNORE_INDEX
    truth = _classes_by_pixel(labels, logits.shape[1])
    present = truth.sum((0, 2, 3)) > 0  # (C,)
    probability = logits.softmax(dim=1)
    slopes = torch.zeros_like(probability, memory_format=torch.contiguous_format)
    with torch.no_grad():
        for number in range(logits.shape[1]):
            # This saves a CPU a sort. On a GPU the question would wait for the device.
            if labels.device.type == "cpu" and not present[number]:
                continue
            mask = truth[:, number]
            errors = (mask.to(logits.dtype) - probability[:, number]).abs()
            slopes[:, number] = _lovasz_slopes(
                errors.flatten(), mask.flatten(), labeled.flatten()
            ).view_as(errors)
    # The slopes change only with the order of the errors, so the loss is linear in the errors.
    errors = torch.where(truth, 1 - probability, probability)
    return _mean_of_present((errors * slopes).sum((0, 2, 3)), present)
