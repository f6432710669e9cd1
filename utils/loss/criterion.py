"""The loss of training: any weighted mix of losses, divided so that the parts of a batch add up.

The parts are the micro-batches of all processes and accumulation steps of one optimizer step:

    criterion = create_criterion("cross_entropy:1,dice:0.5")
    count = criterion.count(labels)              # added over all parts
    criterion(logits, labels, count=count)       # this part's share
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .bands import banded_map, banded_sum, upsample
from .focal_loss import check_focal, checked_class_weights
from .functions import (
    cross_entropy_sum,
    dice_loss,
    focal_sum,
    hard_labels,
    label_probability,
    labelled_weight,
    lovasz_softmax_loss,
    mean_from_sums,
)

# Each loss, and the options that change it.
LOSSES: dict[str, frozenset[str]] = {
    "cross_entropy": frozenset({"class_weights", "label_smoothing"}),
    "focal_loss": frozenset({"class_weights", "focal_gamma", "focal_alpha"}),
    "ohem": frozenset({"class_weights", "label_smoothing"}),
    "dice": frozenset(),
    "lovasz": frozenset(),
}


def parse_loss(loss_type: str) -> dict[str, float]:
    """ "cross_entropy:1,dice:0.5" -> the factor of each loss; a name alone has factor 1."""
    factors: dict[str, float] = {}
    for part in loss_type.split(","):
        name, colon, text = part.strip().partition(":")
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {near[0]!r}? All" if near else "choose from"
            raise ValueError(f"unknown loss {name!r} in {loss_type!r}; {hint}: {', '.join(LOSSES)}")
        if name in factors:
            raise ValueError(f"{name} is twice in {loss_type!r}; name each loss once")
        try:
            factors[name] = float(text) if colon else 1.0
        except ValueError:
            factors[name] = math.nan
        if not 0 < factors[name] < math.inf:
            raise ValueError(
                f"weight {text!r} of {name} in {loss_type!r}; give a number > 0, as in {name}:0.5"
            )
    return factors


def uses(loss_type: str) -> set[str]:
    """Which of focal_gamma, focal_alpha, class_weights and label_smoothing change this loss."""
    return set().union(*(LOSSES[name] for name in parse_loss(loss_type)))


class Criterion(nn.Module):
    """A mix of losses of logits that are upsampled to the labels' size on the way.

    Cross entropy, focal loss and OHEM never hold full-size logits (see bands.py); Dice
    and Lovasz-softmax do. All is computed in float32, or float64 if the logits are.
    """

    def __init__(
        self,
        factors: Mapping[str, float],
        *,
        focal_gamma: float = 2.0,
        focal_alpha: float = 1.0,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        aux_weight: float = 0.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        check_focal(gamma=focal_gamma, alpha=focal_alpha)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label smoothing {label_smoothing}; give a number from 0 to 1")
        if not 0 <= aux_weight < math.inf:
            raise ValueError(f"auxiliary loss weight {aux_weight}; give a number >= 0")
        self.factors = dict(factors)
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha
        self.label_smoothing = label_smoothing
        self.aux_weight = aux_weight
        self.ignore_index = ignore_index
        self.register_buffer("weight", checked_class_weights(class_weights), persistent=False)

    def count(self, labels: Tensor) -> Tensor:
        """What pixel losses are divided by: the labelled pixels, or the sum of their class weights.

        A float64 scalar (float32 on MPS), ready to be added over processes and accumulation
        steps; without a device wait.
        """
        return labelled_weight(labels, self.weight, self.ignore_index)

    def forward(
        self,
        outputs: Tensor | Mapping[str, Tensor],
        labels: Tensor,
        *,
        count: Tensor | None = None,
    ) -> Tensor:
        """The loss, or with ``count`` this micro-batch's share of it.

        ``outputs`` is (N,C,h,w) logits, or a dict of them: "out" and perhaps "aux", which counts
        aux_weight times. ``labels`` (N,H,W). ``count`` is the sum of `count` over all processes
        and accumulation steps of one optimizer step: the shares of all of them add up to the loss
        of all their pixels, exactly for cross entropy and focal loss. What is no sum over pixels
        (OHEM, Dice, Lovasz-softmax) is measured in each micro-batch, and the shares add up to the
        mean of these values, weighted by the micro-batches' counts.
        """
        if isinstance(outputs, Tensor):
            outputs = {"out": outputs}
        own = self.count(labels)
        count = own if count is None else count
        loss = self._mix(outputs["out"], labels, own=own, count=count)
        if self.aux_weight and "aux" in outputs:
            aux = self._mix(outputs["aux"], labels, own=own, count=count)
            loss = loss + self.aux_weight * aux
        return loss

    def _mix(self, logits: Tensor, labels: Tensor, *, own: Tensor, count: Tensor) -> Tensor:
        if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
            raise ValueError(
                f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
                "they must be (N, C, h, w) and (N, H, W)"
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = logits.new_zeros(())
        if self.factors.keys() & {"cross_entropy", "focal_loss"}:
            loss = loss + mean_from_sums(banded_sum(logits, labels, self._pixel_sum), count)
        if self.factors.keys() - {"cross_entropy", "focal_loss"}:
            share = mean_from_sums(own, count).to(logits.dtype)
            loss = loss + share * self._set_losses(logits, labels)
        return loss

    def _pixel_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mix of sums over pixels of full-size logits."""
        total = logits.new_zeros(())
        if "cross_entropy" in self.factors:
            value = self._cross_entropy_sum(logits, labels)
            total = total + self.factors["cross_entropy"] * value
        if "focal_loss" in self.factors:
            value = focal_sum(
                logits,
                labels,
                gamma=self.focal_gamma,
                alpha=self.focal_alpha,
                weight=self.weight,
                ignore_index=self.ignore_index,
            )
            total = total + self.factors["focal_loss"] * value
        return total

    def _cross_entropy_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy_sum(
            logits,
            labels,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )

    def _set_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mix of means that are no sums over pixels, of low-resolution logits."""
        total = logits.new_zeros(())
        if "ohem" in self.factors:
            probability = banded_map(logits, labels, self._label_probability)
            hard = hard_labels(probability, labels, ignore_index=self.ignore_index)
            value = banded_sum(logits, hard, self._cross_entropy_sum)
            total = total + self.factors["ohem"] * mean_from_sums(value, self.count(hard))
        functions = {"dice": dice_loss, "lovasz": lovasz_softmax_loss}
        if functions.keys() & self.factors.keys():
            # Softmax over channels_last logits would copy them in full size.
            logits = upsample(logits.contiguous(), (labels.shape[1], labels.shape[2]))
        for name, function in functions.items():
            if name in self.factors:
                value = function(logits, labels, ignore_index=self.ignore_index)
                total = total + self.factors[name] * value
        return total

    def _label_probability(self, logits: Tensor, labels: Tensor) -> Tensor:
        return label_probability(logits, labels, ignore_index=self.ignore_index)


def create_criterion(
    loss_type: str,
    *,
    focal_gamma: float = 2.0,
    focal_alpha: float = 1.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.0,
    ignore_index: int = 255,
) -> Criterion:
    """Build the loss "NAME" or "NAME:FACTOR,NAME:FACTOR", each NAME one of LOSSES."""
    return Criterion(
        parse_loss(loss_type),
        focal_gamma=focal_gamma,
        focal_alpha=focal_alpha,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        aux_weight=aux_weight,
        ignore_index=ignore_index,
    )
