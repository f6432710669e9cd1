"""What the tests of the cache share: filling it, and comparing what comes out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from datasets.base import FileDataset, SampleKey
from datasets.loader.cache import SampleCache


def fill(data: FileDataset, folder: Path) -> SampleCache:
    cache = SampleCache(folder, data)
    for index in range(len(data)):
        cache.load(index)
    return cache


def assert_same(got: tuple, expected: tuple) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == np.uint8 and np.array_equal(one, other)


def batches(data: FileDataset, workers: int) -> list[bytes]:
    order = [[SampleKey(epoch, i, (i * 3) % 4) for i in range(4)] for epoch in range(3)]
    loader = DataLoader(data, batch_sampler=order, num_workers=workers)
    return [part.numpy().tobytes() for batch in loader for part in batch]
