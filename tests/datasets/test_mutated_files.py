"""Files with seeded random damage: refused in one line or read in the right size, and quickly."""

from __future__ import annotations

import multiprocessing
import random
import re
import struct
import warnings
import zlib
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from datasets.base import FileDataset
from datasets.facts import ClassFacts, make_label_table, make_palette
from datasets.files import (
    DataError,
)
from utils.ext_transforms import val_transform

SIZE = (64, 48)  # width, height of the pictures
PATIENCE = 20  # seconds that one file may take: far more than any needs


class Four(FileDataset):
    facts = ClassFacts(
        ("a", "b", "c", "d"),
        make_palette([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)]),
        make_label_table({0: 0, 1: 1, 2: 2, 3: 3}),
    )


# Mutated files: 12 formats x 7 kinds of damage x 4 = 336.


def flip(content: bytes, chance: random.Random, _: str) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 3, 20))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(content: bytes, chance: random.Random, _: str) -> bytes:
    return content[: chance.randrange(len(content) * 19 // 20)]


def swap(content: bytes, chance: random.Random, _: str) -> bytes:
    """Two pieces change places."""
    length = len(content) // 5
    first = chance.randrange(length)
    second = chance.randrange(first + 2 * length, len(content) - length)
    pieces = content[first : first + length], content[second : second + length]
    return (
        content[:first]
        + pieces[1]
        + content[first + length : second]
        + pieces[0]
        + content[second + length :]
    )


def drop(content: bytes, chance: random.Random, _: str) -> bytes:
    """A piece of the middle is missing."""
    start = chance.randrange(len(content) // 4, len(content) // 2)
    return content[:start] + content[start + len(content) // 4 :]


def huge(content: bytes, chance: random.Random, kind: str) -> bytes:
    return with_size(content, kind, chance.choice((13_000, 16_000, 60_000)))


def empty(content: bytes, _: random.Random, kind: str) -> bytes:
    return with_size(content, kind, 0)


def renamed(content: bytes, _: random.Random, __: str) -> bytes:
    return content


def with_size(content: bytes, kind: str, side: int) -> bytes:
    """The header states side x side, and is otherwise in order."""
    changed = bytearray(content)
    ending = kind.rsplit(".", 1)[-1]
    if ending == "png":
        changed[16:24] = struct.pack(">II", side, side)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif ending == "jpg":
        start = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        changed[start + 5 : start + 9] = struct.pack(">HH", side, side)
    elif ending == "bmp":
        changed[18:26] = struct.pack("<ii", side, side)
    elif ending == "gif":
        changed[6:10] = struct.pack("<HH", side, side)
        start = content.index(b"\x2c\0\0\0\0" + struct.pack("<HH", *SIZE))
        changed[start + 5 : start + 9] = struct.pack("<HH", side, side)
    elif ending == "webp":
        start = content.index(b"\x9d\x01\x2a") + 3
        changed[start : start + 4] = struct.pack("<HH", side & 0x3FFF, side & 0x3FFF)
    else:  # tif: the width and height entries of the directory
        for tag, value in zip((256, 257), SIZE, strict=True):
            ends = struct.pack("<IH", 1, value)
            start = next(
                i for t in (3, 4) if (i := content.find(struct.pack("<HH", tag, t) + ends)) >= 0
            )
            changed[start : start + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(changed)


# Kind of damage -> share of its 48 files that is refused at least; the rest must decode to the
# right size. Formats without checksums (all but PNG) can't tell all damage from a picture.
REFUSED = {flip: 0.45, cut: 1.0, swap: 0.7, drop: 0.8, huge: 1.0, empty: 1.0, renamed: 0.0}
PER_KIND = 4


def write_mutations(folder: Path, pictures: dict[str, bytes]) -> list[tuple[str, str, Path, Path]]:
    """Mutated files as (format, kind of damage, image, label), one of the two damaged."""
    good = folder / "good.png", folder / "good label.png"
    good[0].write_bytes(pictures["png"])
    good[1].write_bytes(pictures["label.png"])
    jobs = []
    for kind, content in pictures.items():
        for damage in REFUSED:
            for number in range(PER_KIND):
                chance = random.Random(f"{kind} {damage.__name__} {number}")
                ending = "txt" if damage is renamed else kind
                path = folder / f"{damage.__name__} {number} {kind}.{ending}"
                path.write_bytes(damage(content, chance, kind))
                pair = (good[0], path) if "label" in kind else (path, good[1])
                jobs.append((kind, damage.__name__, *pair))
    return jobs


def most_memory() -> int:
    """MiB of address space at most; resident pages of libraries would come as they are touched."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(re.search(r"VmPeak:\s+(\d+) kB", status.read_text())[1]) // 1024


def read_all(jobs: list[tuple[str, str, Path, Path]], answers: Connection) -> None:
    """Run in a process of its own: answers one by one, then MiB by which memory grew."""
    warnings.simplefilter("error")
    before = most_memory()
    for _, _, image, label in jobs:
        try:
            pixels, ids = Four([image], [label], ["one"]).load(0)
            answers.send(("read", str((pixels.shape, ids.shape))))
        except DataError as error:
            answers.send(("refused", str(error)))
        except BaseException as error:
            answers.send(("crashed", repr(error)))
    answers.send(("memory", str(most_memory() - before)))


@pytest.mark.filterwarnings("ignore:This process")
def test_mutated_files_are_refused_or_read(
    tmp_path: Path, pictures: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = write_mutations(tmp_path, pictures)
    assert len(jobs) >= 300 and len({job[2:] for job in jobs}) == len(jobs)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    reader = context.Process(target=read_all, args=(jobs, there), daemon=True)
    reader.start()
    refused = dict.fromkeys([damage.__name__ for damage in REFUSED], 0)
    try:
        for kind, damage, image, label in jobs:
            name = f"{damage} of {kind}"
            assert here.poll(PATIENCE), f"{name}: no answer in {PATIENCE} s"
            outcome, text = here.recv()
            assert outcome != "crashed", f"{name}: {text}"
            if outcome == "read":
                assert text == str(((*SIZE[::-1], 3), SIZE[::-1])), f"{name}: {text}"
            else:
                assert "\n" not in text and str(label if "label" in kind else image) in text, text
                refused[damage] += 1
            if kind.endswith("png") and damage == "flip":
                assert outcome == "refused", f"{name}: {text}"
        assert here.poll(PATIENCE)
        grown = int(here.recv()[1])
        # Twice Pillow's limit, 179 million pixels of 4 bytes, and the stacks of OpenCV's threads.
        assert grown < 2000, f"{grown} MiB"
    finally:
        reader.kill()
        reader.join()
    each = len(jobs) // len(REFUSED)
    for damage, share in REFUSED.items():
        assert refused[damage.__name__] >= share * each, refused
    assert refused["renamed"] == 0
    out, err = capfd.readouterr()
    assert out == err == ""  # nor has libtiff, which is written in C, a line of its own


def test_mutated_files_in_a_loader(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    """Every 9th of them through a worker: what the main process refuses is left out there."""
    jobs = write_mutations(tmp_path, pictures)[::9]
    data = Four([job[2] for job in jobs], [job[3] for job in jobs], [""] * len(jobs))
    data.transform = val_transform()
    alone = []
    for index in range(len(data)):
        try:
            alone.append(data[index][0])
        except DataError:
            alone.append(None)
    data.skip_bad_files = True
    loader = DataLoader(data, batch_size=None, num_workers=1)
    for expected, got in zip(alone, loader, strict=True):
        assert got is None if expected is None else torch.equal(got[0], expected)
    bad = [index for index, image in enumerate(alone) if image is None]
    assert data.bad_indices() == bad and 10 < len(bad) < len(jobs)
