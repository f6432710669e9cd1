"""A network's buffers (BatchNorm's statistics), all of one data type as one flat tensor.

So hundreds of them are copied, restored or sent with a few kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def buffer_groups(network: nn.Module) -> list[list[Tensor]]:
    """The buffers, one list for each data type."""
    buffers = list(network.buffers())
    dtypes = dict.fromkeys(buffer.dtype for buffer in buffers)
    return [[buffer for buffer in buffers if buffer.dtype == dtype] for dtype in dtypes]


def flat_buffers(groups: Sequence[list[Tensor]]) -> list[Tensor]:
    """A copy of the buffers, one flat tensor for each data type."""
    return [torch.cat([buffer.flatten() for buffer in group]) for group in groups]


@torch.no_grad()
def set_buffers(groups: Sequence[list[Tensor]], values: Sequence[Tensor]) -> None:
    """Give the buffers values of the form that `flat_buffers` returns."""
    for group, flat in zip(groups, values, strict=True):
        parts = flat.split([buffer.numel() for buffer in group])
        views = [part.view_as(buffer) for part, buffer in zip(parts, group, strict=True)]
        torch._foreach_copy_(group, views)
