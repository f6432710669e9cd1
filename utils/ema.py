"""The moving average of the weights, which then is what is validated, ranked and predicted with.

Polyak and Juditsky's averaging with exponential weights. torch's AveragedModel would wait for the
device at every update (it moves its counter there), so only its arithmetic is used.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

STATE, UPDATES = "ema_state", "ema_updates"  # keys in a checkpoint


class Ema:
    """``model`` is the averaged copy, in eval mode: weights, BatchNorm statistics and all.

    Make it when the network is on its device with its starting weights, of the bare network, not
    of what DDP or torch.compile made of it. Counters (integer buffers) are copied, not averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"an EMA decay of {decay}; it must be above 0 and below 1, or 0: none")
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(network).eval().requires_grad_(False)
        pairs = list(
            zip(
                chain(self.model.parameters(), self.model.buffers()),
                chain(network.parameters(), network.buffers()),
                strict=True,
            )
        )
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present weights; call it after each optimizer step.

        The decay of update t = 0, 1, .. is min(decay, (1 + t) / (10 + t)), as TensorFlow's
        ExponentialMovingAverage has it: the random start is soon forgotten.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        ours, theirs = map(list, zip(*self._averaged, strict=True))
        get_ema_multi_avg_fn(decay)(ours, [tensor.detach() for tensor in theirs], None)
        if self._copied:
            ours, theirs = map(list, zip(*self._copied, strict=True))
            torch._foreach_copy_(ours, theirs)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: weights under the network's own names, number of updates."""
        return {STATE: self.model.state_dict(), UPDATES: self.updates}

    def load(self, saved: Mapping[str, Any]) -> list[str]:
        """Go on from a checkpoint; returns what to say if it holds no averages."""
        state: Mapping[str, Tensor] | None = saved.get(STATE)
        if state is None:
            return ["no averaged weights in the checkpoint: the average starts from its weights"]
        self.model.load_state_dict(state)
        self.updates = saved[UPDATES]
        return []


class NoEma:
    """Stands where no average was asked for: ``model`` is the network itself."""

    def __init__(self, network: nn.Module) -> None:
        self.model = network

    def update(self) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load(self, saved: Mapping[str, Any]) -> list[str]:
        """Say it if the checkpoint's averages end here."""
        return ["the averaged weights in the checkpoint are dropped"] if STATE in saved else []


def create_ema(network: nn.Module, decay: float) -> Ema | NoEma:
    """An average with ``decay``, or none where it is 0."""
    return Ema(network, decay) if decay else NoEma(network)
