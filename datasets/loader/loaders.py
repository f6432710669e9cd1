"""Batches: the order of the samples, and the loaders that fetch them.

The order is a function of the seed and the step alone. So a run that starts at step k sees the
same batches as an uninterrupted run from step k on, with any number of loader processes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from datasets.base import SampleKey, SegmentationDataset
from datasets.loader.workers import as_worker_error
from utils.runtime.console import say
from utils.runtime.signals import ignore_interrupts

Sample = tuple[int, Tensor, Tensor]  # its index in the data set, image, label
WAITING = (
    "no batch has come for a minute: the disk or the network drive with the images may be slow or "
    "gone, or a loader process is stopped (kill -CONT PID)"
)


@dataclass(eq=False)
class TrainSampler(Sampler):
    """Batches of `SampleKey` for the optimizer's steps after `start_step`.

    Each epoch is shuffled, and epochs follow each other without a gap: a batch may hold the end of
    one and the start of the next. So no sample is dropped, and a small data set fills large
    batches. Each step takes `accumulation` batches. `batch_size` counts all processes; the one of
    this `rank` gets every `world_size`-th sample of a batch.
    """

    num_samples: int
    batch_size: int
    _: KW_ONLY
    seed: int
    start_step: int
    total_steps: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return max(self.total_steps - self.start_step, 0) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.start_step + 1, self.total_steps + 1):
            yield from self._batches(step)

    def keys(self, step: int) -> list[SampleKey]:
        """The samples of this process in a step; `start_step + 1` is the first step here."""
        return [key for batch in self._batches(step) for key in batch]

    def _batches(self, step: int) -> Iterator[list[SampleKey]]:
        for number in range((step - 1) * self.accumulation, step * self.accumulation):
            places = range(self.rank, self.batch_size, self.world_size)
            yield [self._key(number * self.batch_size + place) for place in places]

    def _key(self, position: int) -> SampleKey:
        """The sample at `position`, counted from the first sample of the first epoch."""
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            self._epoch = epoch
        return SampleKey(epoch, place, int(self._order[place]))


def _numbered(dataset: SegmentationDataset, indices: Sequence[int]) -> list[Sample]:
    """Samples with their index, not stacked, since they may differ in size; a bad one is left out.

    These are validation's.
    """
    samples = ((i, dataset.sample(SampleKey(epoch=0, position=i, index=i))) for i in indices)
    return [(index, *sample) for index, sample in samples if sample is not None]


def own_generator() -> torch.Generator:
    """For the loader, which would otherwise draw from the global generator, as dropout does."""
    return torch.Generator().manual_seed(0)


class WatchedLoader(DataLoader):
    """A DataLoader that raises WorkerError when one of its processes dies.

    Where no batch comes for `patience` seconds, it says so, and waits on.
    """

    patience = 60.0

    # A generator, while torch declares its private iterator class.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            batches = super().__iter__()
            while (batch := self._next(batches)) is not None:
                yield batch
        except (EOFError, OSError, RuntimeError) as error:
            death = as_worker_error(error) if self.num_workers else None
            if death is None:
                raise
            raise death from error

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch, or None at the end."""
        timer = threading.Timer(self.patience, say, (WAITING,), {"error": True})
        timer.daemon = True
        timer.start()
        try:
            return next(batches, None)
        finally:
            timer.cancel()


def start_worker(worker_id: int) -> None:
    """Set up a loader process: one thread, and signals are left to the main process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # no threads but the calling one
    ignore_interrupts()


def train_loader(
    dataset: SegmentationDataset, sampler: TrainSampler, *, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Batches (uint8 (N,3,H,W), uint8 (N,H,W)) in the order of the sampler."""
    return WatchedLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=own_generator(),
    )


def val_loader(
    dataset: SegmentationDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader:
    """The samples `indices` in order, as lists of up to `batch_size` (index, image, label).

    Samples that are None are left out, so a list may be empty. The processes stay for the next
    iteration; there are not more of them than lists.
    """
    batches = [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
    num_workers = min(num_workers, len(batches))
    return WatchedLoader(
        range(len(dataset)),  # type: ignore[arg-type]  # any sequence will do
        batch_sampler=batches,
        collate_fn=partial(_numbered, dataset),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=own_generator(),
    )
