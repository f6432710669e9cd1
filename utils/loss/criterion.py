"""The loss of training: any weighted mix of losses, divided so that the parts of a batch add up.

The parts are the micro-batches of all processes and accumulation steps of one optimizer step:

    criterion = Criterion("cross_entropy:1,dice:0.5", options={"label_smoothing": 0.1})
    count = criterion.count(labels)              # added over all parts
    criterion(outputs, labels, count=count)      # this part's share
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from network.upsampled_conv import upsample

from .bands import banded_sum
from .functions import check_class_weights, labeled_weight, mean_from_sums
from .table import LOSSES, Kind, parse_loss


class Criterion(nn.Module):
    """A mix of losses of logits that are upsampled to the labels' size on the way.

    `loss_type` is "NAME" or "NAME:FACTOR,NAME:FACTOR", each NAME one of LOSSES. `options`
    maps names of options, such as focal_gamma, to their values; a missing one has the default of
    the loss's function, and those that no loss of the mix uses are ignored. `aux_weight` is the
    factor of the auxiliary head's loss.

    Everything is computed in float32, or in float64 if the logits are. Only losses of Kind.SET ever
    hold full-size logits (see bands.py).
    """

    weight: Tensor | None

    def __init__(
        self,
        loss_type: str,
        *,
        options: Mapping[str, float] = MappingProxyType({}),
        class_weights: Tensor | None = None,
        aux_weight: float = 0.0,
    ) -> None:
        super().__init__()
        factors = parse_loss(loss_type)
        # In the table's order: the order in loss_type doesn't change how the result is rounded.
        self.factors = {name: factors[name] for name in LOSSES if name in factors}
        self.kinds = {LOSSES[name].kind for name in factors}
        self.options = dict(options)
        self.aux_weight = aux_weight
        self.register_buffer("weight", check_class_weights(class_weights), persistent=False)

    def count(self, labels: Tensor) -> Tensor:
        """What pixel losses are divided by: the labeled pixels, or the sum of their class weights.

        A float64 scalar (float32 on MPS), ready to be added over processes and accumulation steps.
        It does not wait for the device.
        """
        return labeled_weight(labels, self.weight)

    def forward(
        self,
        outputs: Tensor | Mapping[str, Tensor],
        labels: Tensor,
        *,
        count: Tensor | None = None,
    ) -> Tensor:
        """The loss, or with `count` this micro-batch's share of it.

        `outputs` are logits (N,C,h,w), or a dict of them: "out" and perhaps "aux", which counts
        aux_weight times. `labels` is (N,H,W). `count` is the sum of `count` over all processes
        and accumulation steps of one optimizer step. The shares of all of them add up to the loss
        of all their pixels, exactly for Kind.PIXELS. A loss of a set of pixels is measured in each
        micro-batch, and the shares add up to the mean of these values, weighted by the
        micro-batches' counts.
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
        loss = zero = logits.new_zeros(())
        if Kind.PIXELS in self.kinds:
            total = banded_sum(logits, labels, partial(self._add, zero, Kind.PIXELS))
            loss = loss + mean_from_sums(total, count)
        if self.kinds != {Kind.PIXELS}:
            value = self._add(zero, Kind.BANDED_SET, logits, labels)
            if Kind.SET in self.kinds:
                # Softmax would copy full-size logits in channels_last.
                full = upsample(logits.contiguous(), (labels.shape[1], labels.shape[2]))
                value = self._add(value, Kind.SET, full, labels)
            loss = loss + mean_from_sums(own, count).to(logits.dtype) * value
        return loss

    def _add(self, total: Tensor, kind: Kind, logits: Tensor, labels: Tensor) -> Tensor:
        """`total` plus the value of each loss of this kind in the mix, times its factor."""
        options: dict[str, float | Tensor | None] = {**self.options, "class_weights": self.weight}
        for name, factor in self.factors.items():
            loss = LOSSES[name]
            if loss.kind is kind:
                given = {name: options[name] for name in loss.options & options.keys()}
                total = total + factor * loss.function(logits, labels, **given)
        return total
