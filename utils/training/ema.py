"""The moving average of the weights, which is then validated, ranked and predicted with.

Polyak and Juditsky's averaging, with exponential weights. torch's AveragedModel waits for the
device at every update (it moves its counter there), so only its arithmetic is used.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from network import DeepLabV3
from network.pretrained import Checkpoint


class Ema:
    """`model` is the averaged copy in eval mode, with weights and BatchNorm statistics.

    Make it from the bare network (not from what DDP or torch.compile made of it) when that is on
    its device with its first weights. Integer buffers, which are counters, are copied.
    """

    def __init__(self, network: DeepLabV3, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(network).eval().requires_grad_(False)
        ours = chain(self.model.parameters(), self.model.buffers())
        theirs = chain(network.parameters(), network.buffers())
        pairs = list(zip(ours, theirs, strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present weights; call it after each optimizer step.

        The decay of update t = 0, 1, ... is min(decay, (1 + t) / (10 + t)), as in TensorFlow's
        ExponentialMovingAverage: so the random start is soon forgotten.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        ours, theirs = map(list, zip(*self._averaged, strict=True))
        get_ema_multi_avg_fn(decay)(ours, [tensor.detach() for tensor in theirs], None)
        if self._copied:
            ours, theirs = map(list, zip(*self._copied, strict=True))
            torch._foreach_copy_(ours, theirs)

    def entries(self) -> Checkpoint:
        """What a checkpoint keeps: weights under the network's own names, number of updates."""
        return {"ema_state": self.model.state_dict(), "ema_updates": self.updates}

    def load(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint's average; without one it starts from the present weights."""
        if "ema_state" in saved:
            self.model.load_state_dict(saved["ema_state"])
            self.updates = saved["ema_updates"]


class NoEma:
    """Stands where no average was asked for: `model` is the network itself."""

    def __init__(self, network: DeepLabV3) -> None:
        self.model = network

    def update(self) -> None:
        """Nothing to do."""

    def entries(self) -> Checkpoint:
        """Nothing to keep."""
        return {}

    def load(self, saved: Checkpoint) -> None:
        """Nothing to load."""
