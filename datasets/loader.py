"""Batches: which sample comes when, and the loaders that fetch them.

The order is a pure function of the seed and the step, so a run that starts at step k sees the
batches that an undisturbed run sees from step k on, whatever the number of loader processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from .base import SampleKey, SegmentationDataset


class TrainSampler(Sampler):
    """Batches of :class:`SampleKey` for the steps ``start_step`` to ``total_steps``.

    Epochs are shuffled one by one and follow each other without a gap: a batch may hold the end of
    one and the start of the next, so no sample is dropped and a small data set fills large batches.
    ``batch_size`` counts all processes; this one (``rank``) gets every ``world_size``-th of it.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        start_step: int,
        total_steps: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(self.total_steps - self.start_step, 0)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start_step, self.total_steps):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.num_samples != epoch:
                    epoch = position // self.num_samples
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
                if position % self.batch_size % self.world_size == self.rank:
                    place = position % self.num_samples
                    batch.append(SampleKey(epoch, place, int(order[place])))
            yield batch


def _as_list(samples: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """No stacking: validation images may differ in size."""
    return list(samples)


def _own_generator() -> torch.Generator:
    """For the loader, which draws a seed for its workers that nothing here uses.

    Left to itself it would draw from the global generator, which dropout draws from.
    """
    return torch.Generator().manual_seed(0)


def train_loader(
    dataset: SegmentationDataset, sampler: TrainSampler, *, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Batches (uint8 (N,3,H,W), uint8 (N,H,W)) in the sampler's order."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=_own_generator(),
    )


def val_loader(
    dataset: SegmentationDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader:
    """The samples ``indices`` in order, as lists of up to ``batch_size`` (image, label) pairs."""
    return DataLoader(
        dataset,
        batch_sampler=[
            list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)
        ],
        collate_fn=_as_list,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=_own_generator(),
    )
