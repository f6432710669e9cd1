"""The losses as functions of full-size logits (N,C,H,W) and labels (N,H,W).

Cross entropy and focal loss are sums over pixels; Dice and Lovasz-softmax measure sets of pixels,
here those of the whole batch. `hard_labels` leaves OHEM's pixels for cross entropy. Ignored pixels
change neither value nor gradient, and without a labelled pixel all are 0 with zero gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def checked(
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


def labelled_weight(labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """The number of labelled pixels, or the sum of their class weights; without a device wait.

    float64, float32 on MPS, which has nothing longer.
    """
    longest = torch.float32 if labels.device.type == "mps" else torch.float64
    labelled = labels != ignore_index
    if weight is None:
        return labelled.sum().to(longest)
    weight = weight.to(labels.device)
    return (weight[torch.where(labelled, labels, 0).long()] * labelled).sum(dtype=longest)


def mean_from_sums(total: Tensor, count: Tensor) -> Tensor:
    """Divide; 0, with the graph intact, where nothing was counted."""
    return total / torch.where(count > 0, count, 1).to(total.dtype)


def cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """Sum the cross entropy over labelled pixels; `labelled_weight` is what divides it.

    logits (N, C, ...) of any float type, labels (N, ...) of any integer type. Weights and
    smoothing are those of torch.nn.functional.cross_entropy.
    """
    logits, labels, weight = checked(logits, labels, weight)
    return F.cross_entropy(
        logits,
        labels,
        weight=weight,
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def focal_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Sum alpha * w_y * (1 - p_y)**gamma * -log(p_y); otherwise as cross_entropy_sum.

    Lin et al., Focal Loss for Dense Object Detection, 2017, with the softmax's p_y.
    """
    logits, labels, weight = checked(logits, labels, weight)
    # 0 at ignored pixels, with zero gradient.
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    # A power below 1 has no finite slope at 0, where p_y is 1; the clamp gives it slope 0 there.
    missing = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(logits.dtype).tiny)
    focal = alpha * missing**gamma * cross_entropy
    if weight is not None:
        focal = focal * weight[torch.where(labels != ignore_index, labels, 0)]
    return focal.sum()


def label_probability(logits: Tensor, labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """The softmax's p_y of every pixel (N, ...), 1 at ignored ones."""
    logits, labels, _ = checked(logits, labels, None)
    return (-F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")).exp()


def _as_integers(values: Tensor) -> Tensor:
    """The bits of floats >= 0, which have the same order, and sort far faster on a CPU."""
    return values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)


def hard_labels(
    probability: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
    ignore_index: int = 255,
) -> Tensor:
    """Labels with the easy pixels ignored: online hard example mining.

    Kept are the pixels whose ``probability`` p_y (N,H,W) is below ``threshold``, and always the
    hardest ``min_kept`` of the labelled ones, as a share of them (and what ties with these).
    Shrivastava et al., Training Region-based Object Detectors with OHEM, 2016; 0.7 and 1/16 are
    the customary numbers for pixels since BiSeNet (Yu et al., 2018).
    """
    labelled = labels != ignore_index
    ordered = _as_integers(torch.where(labelled, probability, torch.inf).flatten()).sort().values
    last_kept = ((labelled.sum() * min_kept).ceil().long() - 1).clamp(min=0)
    hardest = ordered.gather(0, last_kept[None]).view(probability.dtype)
    kept = (probability < threshold) | (probability <= hardest)
    return torch.where(kept, labels, ignore_index)


def _classes_by_pixel(labels: Tensor, num_classes: int) -> Tensor:
    """(N,C,...) bool: which pixels are labelled as which class."""
    classes = torch.arange(num_classes, device=labels.device)
    return labels.unsqueeze(1) == classes.view(-1, *[1] * (labels.ndim - 1))


def _mean_of_present(values: Tensor, present: Tensor) -> Tensor:
    return mean_from_sums((values * present).sum(), present.sum())


def dice_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """1 - 2 sum(p y) / (sum(p) + sum(y)) over labelled pixels, mean over the classes that occur.

    Milletari et al., V-Net, 2016, without the squares, as in Sudre et al., Generalised Dice, 2017.
    """
    logits, labels, _ = checked(logits, labels, None)
    truth = _classes_by_pixel(labels, logits.shape[1]) & (labels != ignore_index).unsqueeze(1)
    probability = logits.softmax(dim=1) * (labels != ignore_index).unsqueeze(1)
    pixels = [0, *range(2, logits.ndim)]
    sizes = truth.sum(pixels)  # (C,)
    overlap = (probability * truth).sum(pixels)
    # A class that does not occur counts 0 below; the clamp keeps its quotient finite.
    extent = (probability.sum(pixels) + sizes).clamp(min=torch.finfo(logits.dtype).tiny)
    return _mean_of_present(1 - 2 * overlap / extent, sizes > 0)


def _lovasz_slopes(errors: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
    """The Lovasz extension's slope at every pixel: errors (P,) >= 0, truth and labelled (P,) bool.

    Algorithm 1 of Berman et al. takes differences of neighbouring Jaccard losses, which float32
    does not resolve for millions of pixels; here each difference is written out: a pixel of the
    class takes one from the intersection, another adds one to the union.
    """
    # Largest first. Ignored pixels come last: they change no other's slope, and theirs is 0.
    order = torch.where(labelled, -_as_integers(errors), 1).argsort()
    hit = truth[order]
    hits = hit.cumsum(0)
    intersection = (hits[-1:] - hits).to(errors.dtype)
    union = (hits[-1:] + (~hit).cumsum(0)).to(errors.dtype)
    # 1 at a miss only if the class does not occur; then all slopes are 0.
    slopes = torch.where(hit, 1 / union, intersection / (union * (union - 1).clamp(min=1)))
    return torch.empty_like(errors).index_copy_(0, order, slopes)


def lovasz_softmax_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Lovasz extension of 1 - IoU, mean over the classes that occur in the batch.

    Berman et al., The Lovasz-Softmax Loss, 2018: pixels of all images together, "present" classes.
    """
    logits, labels, _ = checked(logits, labels, None)
    labelled = labels != ignore_index
    truth = _classes_by_pixel(labels, logits.shape[1]) & labelled.unsqueeze(1)
    present = truth.sum([0, *range(2, logits.ndim)]) > 0  # (C,)
    probability = logits.softmax(dim=1)
    slopes = torch.zeros_like(probability, memory_format=torch.contiguous_format)
    with torch.no_grad():
        for number in range(logits.shape[1]):
            # Without this a CPU would sort for nothing; elsewhere asking would wait for the device.
            if labels.device.type == "cpu" and not present[number]:
                continue
            mask = truth[:, number]
            errors = (mask.to(logits.dtype) - probability[:, number]).abs()
            slopes[:, number] = _lovasz_slopes(
                errors.flatten(), mask.flatten(), labelled.flatten()
            ).view_as(errors)
    # Slopes are constant between changes of order, so the loss is linear in the errors.
    errors = torch.where(truth, 1 - probability, probability)
    return _mean_of_present((errors * slopes).sum([0, *range(2, logits.ndim)]), present)
