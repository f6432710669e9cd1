"""Focal loss of full-size logits, under the name and with the arguments of the predecessor."""

from __future__ import annotations

import math

from torch import Tensor, nn

from utils.utils import IGNORE_INDEX

from .functions import check_class_weights, focal_sum, labeled_weight, mean_from_sums


class FocalLoss(nn.Module):
    """Focal loss averaged over the labeled pixels, or summed with size_average=False.

    `weight`: one factor >= 0 per class. gamma >= 0 is 2 by default; the predecessor's default 0
    is cross entropy.
    """

    weight: Tensor | None

    def __init__(
        self,
        alpha: float = 1,
        gamma: float = 2,
        size_average: bool = True,
        ignore_index: int = IGNORE_INDEX,
        *,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= gamma < math.inf and 0 < alpha < math.inf):
            raise ValueError(
                f"focal loss got gamma {gamma} and alpha {alpha}; gamma must be >= 0 and alpha > 0"
            )
        self.alpha = alpha
        self.gamma = gamma
        self.size_average = size_average
        self.ignore_index = ignore_index
        self.register_buffer("weight", check_class_weights(weight), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = focal_sum(
            logits,
            labels,
            focal_gamma=self.gamma,
            focal_alpha=self.alpha,
            class_weights=self.weight,
            ignore_index=self.ignore_index,
        )
        if not self.size_average:
            return total
        count = labeled_weight(labels, self.weight, ignore_index=self.ignore_index)
        return mean_from_sums(total, count)
