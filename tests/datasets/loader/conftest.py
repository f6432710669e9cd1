"""A small data set on disk for the tests of the cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from datasets.base import FileDataset

MakeDataset = Callable[..., FileDataset]


@pytest.fixture
def data(ten_classes: MakeDataset) -> FileDataset:
    """Four samples of 40 x 50 pixels; their cache is not set."""
    return ten_classes()


@pytest.fixture
def decoded(data: FileDataset, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples that were decoded, in order."""
    seen, decode = [], data.decode
    monkeypatch.setattr(data, "decode", lambda index: seen.append(index) or decode(index))
    return seen
