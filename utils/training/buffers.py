"""What a bad step must not change besides weights: the statistics of BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BufferBackup:
    """Copies of a network's buffers (BatchNorm's statistics) from before the present step.

    All buffers of one data type share one flat copy, so that keeping and restoring hundreds of
    them takes a few kernels.
    """

    def __init__(self, network: nn.Module) -> None:
        self._groups: list[tuple[list[Tensor], Tensor, Tensor, list[Tensor], list[Tensor]]] = []
        for dtype in dict.fromkeys(buffer.dtype for buffer in network.buffers()):
            live = [buffer for buffer in network.buffers() if buffer.dtype == dtype]
            before, after = (live[0].new_empty(sum(b.numel() for b in live)) for _ in range(2))
            sizes = [buffer.numel() for buffer in live]
            before_views, after_views = (
                [part.view_as(b) for part, b in zip(flat.split(sizes), live, strict=True)]
                for flat in (before, after)
            )
            self._groups.append((live, before, after, before_views, after_views))

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the present values."""
        for live, _, _, before_views, _ in self._groups:
            torch._foreach_copy_(before_views, live)

    @torch.no_grad()
    def restore_if(self, bad: Tensor) -> None:
        """Put the kept values back if the scalar `bad` is true."""
        for live, before, after, _, after_views in self._groups:
            torch._foreach_copy_(after_views, live)
            torch.where(bad, before, after, out=after)
            torch._foreach_copy_(live, after_views)
