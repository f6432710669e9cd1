"""Batches: which sample comes when, and the loaders that fetch them.

The order is a pure function of the seed and the step, so a run that starts at step k sees the
batches that an undisturbed run sees from step k on, whatever the number of loader processes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.base import SampleKey, SegmentationDataset
from datasets.loader.workers import as_worker_error

Sample = tuple[int, Tensor, Tensor]  # its index in the data set, image, label


class TrainSampler(Sampler):
    """Batches of :class:`SampleKey` for the optimizer's steps after ``start_step``.

    Epochs are shuffled one by one and follow each other without a gap: a batch may hold the end of
    one and the start of the next, so no sample is dropped and a small data set fills large batches.
    Each step takes ``accumulation`` batches, which come one by one. ``batch_size`` counts all
    processes; this one (``rank``) gets every ``world_size``-th of a batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        start_step: int,
        total_steps: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.accumulation = accumulation
        self.rank, self.world_size = rank, world_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return max(self.total_steps - self.start_step, 0) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.start_step + 1, self.total_steps + 1):
            yield from self._batches(step)

    def keys(self, step: int) -> list[SampleKey]:
        """This process's samples of a step; 1 is the first, ``start_step + 1`` the first here."""
        return [key for batch in self._batches(step) for key in batch]

    def _batches(self, step: int) -> Iterator[list[SampleKey]]:
        for number in range((step - 1) * self.accumulation, step * self.accumulation):
            places = range(self.rank, self.batch_size, self.world_size)
            yield [self._key(number * self.batch_size + place) for place in places]

    def _key(self, position: int) -> SampleKey:
        """The sample that comes after ``position`` others, counted from the very first."""
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            self._epoch = epoch
        return SampleKey(epoch, place, int(self._order[place]))


class _Numbered(Dataset):
    """Samples with their index; None stays None."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | None:
        sample = self.dataset[index]
        return None if sample is None else (index, *sample)


def _as_list(samples: Sequence[Sample | None]) -> list[Sample]:
    """No stacking: validation images may differ in size. None is a bad file that is left out."""
    return [sample for sample in samples if sample is not None]


def _own_generator() -> torch.Generator:
    """For the loader, which draws a seed for its workers that nothing here uses.

    Left to itself it would draw from the global generator, which dropout draws from.
    """
    return torch.Generator().manual_seed(0)


class _Loader(DataLoader):
    """A DataLoader that says in a WorkerError that one of its processes ended."""

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from super().__iter__()
        except (EOFError, OSError, RuntimeError) as error:
            death = as_worker_error(error) if self.num_workers else None
            if death is None:
                raise
            raise death from error


WorkerStart = Callable[[int], None]


def _start_worker(worker_id: int, *, then: WorkerStart | None) -> None:
    """Set up a loader process: one thread, and it lives through a Ctrl-C that is for the run.

    A SIGTERM ends it: the DataLoader has replaced what a forked process had of the main process.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # no thread beside the one that calls
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if then is not None:
        then(worker_id)


def train_loader(
    dataset: SegmentationDataset,
    sampler: TrainSampler,
    *,
    num_workers: int,
    pin_memory: bool,
    worker_init: WorkerStart | None = None,
) -> DataLoader:
    """Batches (uint8 (N,3,H,W), uint8 (N,H,W)) in the sampler's order.

    ``worker_init`` is called with its number in each loader process, after threads and signals were
    set there.
    """
    return _Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, then=worker_init),
        generator=_own_generator(),
    )


def val_loader(
    dataset: SegmentationDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    worker_init: WorkerStart | None = None,
) -> DataLoader:
    """The samples ``indices`` in order, as lists of up to ``batch_size`` (index, image, label).

    Samples that ``dataset`` gives as None are left out, so a list may be empty. Iterate it as often
    as you like: its processes stay. ``worker_init`` as for :func:`train_loader`.
    """
    return _Loader(
        _Numbered(dataset),
        batch_sampler=[
            list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)
        ],
        collate_fn=_as_list,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, then=worker_init),
        generator=_own_generator(),
    )
