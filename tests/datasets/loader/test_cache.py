"""The cache: the same samples as without it, whatever happens to the folder or to the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.base import FileDataset
from datasets.facts import make_label_table
from datasets.files import DataError
from datasets.loader.cache import SampleCache
from tests.datasets.loader.cached import assert_same, batches, fill
from utils.ext_transforms import train_transform, val_transform

MakeDataset = Callable[..., FileDataset]


def test_each_sample_is_decoded_once(data: FileDataset, decoded: list[int], tmp_path: Path) -> None:
    expected = [FileDataset.decode(data, index) for index in range(4)]
    for run in range(3):
        data.cache = SampleCache(tmp_path / "new" / "cache", data)
        # Seven integers of 8 bytes, 40 x 50 pixels of 4 bytes, in blocks of 4096.
        assert data.cache.missing_bytes == (4 * 8192 if run == 0 else 0)
        for index in (2, 0, 3, 1):
            image, label = data.load(index)
            assert_same((image, label), expected[index])
            assert not image.flags.writeable and not label.flags.writeable
            assert image.shape == (40, 50, 3) and label.shape == (40, 50)
    assert decoded == [2, 0, 3, 1]
    entries = list((tmp_path / "new" / "cache").iterdir())
    assert len(entries) == 4
    assert {path.suffix for path in entries} == {".sample"}
    assert {path.stat().st_size for path in entries} == {48 + 40 * 50 * 4}
    assert data.cache.problem() is None


def test_the_map_is_no_copy(data: FileDataset, tmp_path: Path) -> None:
    cache = fill(data, tmp_path / "cache")
    image, label = cache.load(0)
    assert not image.flags.owndata and np.shares_memory(image.base, label.base)


def test_a_split_without_labels(data: FileDataset, tmp_path: Path) -> None:
    bare = type(data)(data.images, None, data.names)
    for _ in range(2):
        image, label = SampleCache(tmp_path / "cache", bare).load(1)
        assert np.array_equal(image, data.decode(1)[0]) and (label == 255).all()
        assert not image.flags.writeable and not label.flags.writeable
    # The labeled split of the same images has entries of its own.
    assert_same(SampleCache(tmp_path / "cache", data).load(1), data.decode(1))
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("running", [True, False])
def test_a_changed_file_is_read_again(
    data: FileDataset, decoded: list[int], tmp_path: Path, which: str, running: bool
) -> None:
    changed = (data.images if which == "image" else data.labels)[1]
    pixels = np.asarray(Image.open(changed))
    Image.fromarray(pixels).save(changed, "BMP")  # uncompressed, of whatever name
    before = changed.stat()
    cache = fill(data, tmp_path / "cache")
    old = cache.load(1)
    kept = [array.copy() for array in old]
    # Other pixels, the same length: only the time tells.
    Image.fromarray(9 - pixels if which == "label" else 255 - pixels).save(changed, "BMP")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert changed.stat().st_size == before.st_size
    if not running:
        cache = SampleCache(tmp_path / "cache", data)
        assert cache.missing_bytes == 8192
    decoded.clear()
    expected = FileDataset.decode(data, 1)
    assert_same(cache.load(1), expected)
    assert_same(cache.load(1), expected)
    assert_same(cache.load(0), FileDataset.decode(data, 0))
    assert decoded == [1]
    assert_same(old, kept)  # what was handed out stays as it was
    assert len(list((tmp_path / "cache").iterdir())) == 4  # the old entry is gone


def test_other_classes_have_other_entries(
    data: FileDataset, ten_classes: MakeDataset, tmp_path: Path
) -> None:
    fill(data, tmp_path / "cache")
    other = ten_classes()
    table = make_label_table({i: 9 - i for i in range(10)})
    other.facts = replace(other.facts, label_table=table)
    assert_same(SampleCache(tmp_path / "cache", other).load(0), other.decode(0))
    colors = ten_classes()
    colors.facts = replace(colors.facts, colors={(1, 2, 3): 0})
    assert SampleCache(tmp_path / "cache", colors).missing_bytes == 4 * 8192
    assert SampleCache(tmp_path / "cache", data).missing_bytes == 0


def test_a_file_that_vanished_is_named(data: FileDataset, tmp_path: Path) -> None:
    cache = fill(data, tmp_path / "cache")
    data.labels[2].unlink()
    with pytest.raises(DataError, match=f"cannot read {data.labels[2]}: No such file"):
        cache.load(2)
    assert SampleCache(tmp_path / "cache", data).missing_bytes == 0


def test_bad_files_are_never_stored(data: FileDataset, tmp_path: Path) -> None:
    data.images[1].write_bytes(data.images[1].read_bytes()[:-30])
    data.images[2].write_bytes(b"")
    data.cache = SampleCache(tmp_path / "cache", data)
    assert data.cache.missing_bytes == 3 * 8192  # that of the first is seen in its pixels only
    data.skip_bad_files = True
    for _ in range(2):
        assert [data[index] is None for index in range(4)] == [False, True, True, False]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "header", "short", "long", "magic", "size"])
def test_half_written_entries_never_count(
    data: FileDataset, decoded: list[int], tmp_path: Path, damage: str
) -> None:
    fill(data, tmp_path / "cache")
    for entry in (tmp_path / "cache").iterdir():
        content = entry.read_bytes()
        other_magic, other_width = bytearray(content), bytearray(content)
        other_magic[0] ^= 1
        other_width[12] += 1
        entry.write_bytes(
            {
                "empty": b"",
                "header": content[:40],
                "short": content[:-1],
                "long": content + b"\0",
                "magic": bytes(other_magic),
                "size": bytes(other_width),
            }[damage]
        )
    decoded.clear()
    cache = SampleCache(tmp_path / "cache", data)
    assert cache.missing_bytes == 4 * 8192
    assert_same(cache.load(3), FileDataset.decode(data, 3))
    assert_same(cache.load(3), FileDataset.decode(data, 3))
    assert decoded == [3]


@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:This process")
def test_training_sees_the_same_batches(data: FileDataset, tmp_path: Path) -> None:
    data.transform = train_transform(32, color_jitter=0.3)
    expected = batches(data, 0)
    for workers in (4, 0, 1):  # first by several at once, into an empty folder
        data.cache = SampleCache(tmp_path / "cache", data)
        assert batches(data, workers) == expected
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert data.cache.problem() is None


@pytest.mark.slow  # starts a process that imports all
def test_spawned_processes_share_the_cache(data: FileDataset, tmp_path: Path) -> None:
    data.cache = SampleCache(tmp_path / "cache", data)
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    data.transform = val_transform()
    for index, (image, label) in enumerate(loader):
        expected = data.decode(index)
        assert torch.equal(image, torch.tensor(expected[0]).permute(2, 0, 1))
        assert torch.equal(label, torch.tensor(expected[1]))
    assert data.cache.missing_bytes and SampleCache(tmp_path / "cache", data).missing_bytes == 0


def wrong_label(content: bytearray) -> None:
    content[-7] = 77


def negative(content: bytearray) -> None:
    content[32:48] = np.array([-40, -50], np.int64).tobytes()


def no_height(content: bytearray) -> None:
    content[32:40] = bytes(8)
    del content[48:]


def large(content: bytearray) -> None:
    """The product of the sides is right modulo 2^64."""
    content[32:48] = np.array([40 + 2**62, 50], np.int64).tobytes()


DAMAGE = (wrong_label, negative, no_height, large)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_anew(
    data: FileDataset, decoded: list[int], tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    cache = fill(data, tmp_path / "cache")
    for entry in (tmp_path / "cache").iterdir():
        content = bytearray(entry.read_bytes())
        damage(content)
        entry.write_bytes(content)
    decoded.clear()
    for _ in range(2):
        assert_same(cache.load(2), FileDataset.decode(data, 2))
    assert decoded == [2]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 9), (8, 8)])
def test_samples_of_any_size_are_kept(
    ten_classes: MakeDataset, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Labels of 1, 15, 63 and 64 bytes."""
    data = ten_classes(2, size)
    cache = fill(data, tmp_path / "cache")
    assert SampleCache(tmp_path / "cache", data).missing_bytes == 0
    assert_same(cache.load(1), data.decode(1))


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_an_entry_that_is_no_regular_file_is_replaced(
    data: FileDataset, decoded: list[int], tmp_path: Path, kind: str
) -> None:
    """A FIFO that nobody writes to would wait for ever."""
    fill(data, tmp_path / "cache")
    for entry in (tmp_path / "cache").iterdir():
        entry.unlink()
        os.mkfifo(entry) if kind == "fifo" else entry.symlink_to("/dev/zero")
    decoded.clear()
    cache = SampleCache(tmp_path / "cache", data)
    for _ in range(2):
        assert_same(cache.load(1), FileDataset.decode(data, 1))
    assert decoded == [1]
