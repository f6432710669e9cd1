from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from torch.utils.data import DataLoader

from datasets import SampleKey, Shapes
from datasets.base import SegmentationDataset
from datasets.loader import TrainSampler, train_loader, val_loader
from datasets.loader.loaders import WatchedLoader
from utils.ext_transforms import train_transform


def batches(num_samples: int = 7, batch_size: int = 4, **more: int) -> list[list[SampleKey]]:
    settings = {"seed": 5, "start_step": 0, "total_steps": 9} | more
    return list(TrainSampler(num_samples, batch_size, **settings))


def test_every_epoch_has_each_sample_once_in_an_order_of_its_own() -> None:
    keys = [key for batch in batches(total_steps=7) for key in batch]
    for epoch in range(4):
        order = [key.index for key in keys if key.epoch == epoch]
        assert sorted(order) == list(range(7))
    assert [key.index for key in keys[:7]] != [key.index for key in keys[7:14]]
    assert [key.position for key in keys[7:14]] == list(range(7))


def test_batches_are_full_even_where_the_data_set_is_smaller_than_one() -> None:
    assert [len(batch) for batch in batches(num_samples=3, batch_size=8)] == [8] * 9


def test_a_later_start_sees_the_batches_of_the_whole_run() -> None:
    assert batches(start_step=4) == batches()[4:]
    assert len(TrainSampler(7, 4, seed=5, start_step=4, total_steps=9)) == 5
    assert batches(start_step=9) == [] and batches(start_step=12) == []
    assert batches(start_step=4, accumulation=3) == batches(accumulation=3)[12:]


def test_the_seed_changes_the_order() -> None:
    assert batches(seed=6) != batches()


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_batch_without_overlap(world_size: int) -> None:
    shares = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(batches(), *shares, strict=True):
        assert {len(part) for part in parts} == {4 // world_size}
        assert sorted(key for part in parts for key in part) == sorted(whole)


def test_accumulated_batches_are_those_of_one_large_batch() -> None:
    halves = batches(batch_size=2, accumulation=2)
    assert [len(batch) for batch in halves] == [2] * 18
    assert len(TrainSampler(7, 2, seed=5, start_step=3, total_steps=9, accumulation=2)) == 12
    assert [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)] == batches()


@pytest.mark.parametrize(("accumulation", "world_size"), [(1, 1), (2, 1), (2, 2)])
def test_keys_are_those_of_a_step_counted_from_one(accumulation: int, world_size: int) -> None:
    settings = {"seed": 5, "total_steps": 9, "world_size": world_size, "rank": world_size - 1}
    sampler = TrainSampler(7, 4, start_step=0, accumulation=accumulation, **settings)
    drawn = list(sampler)
    for step in (9, 1, 4):  # in any order, and also in the middle of drawing
        expected = drawn[(step - 1) * accumulation : step * accumulation]
        assert sampler.keys(step) == [key for batch in expected for key in batch]
        assert len(sampler.keys(step)) == 4 * accumulation // world_size
    later = TrainSampler(7, 4, start_step=3, accumulation=accumulation, **settings)
    assert later.keys(4) == [key for batch in list(later)[:accumulation] for key in batch]


def digests(loader: DataLoader) -> list[str]:
    return [
        hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        for images, labels in loader
    ]


def shapes_loader(num_workers: int, *, start_step: int = 0, num_epochs: int = 3) -> DataLoader:
    """Two batches an epoch, of 8 of the shapes."""
    augment = train_transform(48, color_jitter=0.5, cat_max_ratio=0.75)
    dataset = Shapes("train", transform=augment)
    dataset.seed = 1
    settings = {"seed": 1, "start_step": start_step, "total_steps": 2 * num_epochs}
    sampler = TrainSampler(8, 4, **settings)
    return train_loader(dataset, sampler, num_workers=num_workers, pin_memory=False)


def test_batches_repeat_with_any_number_of_workers_and_after_a_resume() -> None:
    alone = digests(shapes_loader(0))
    assert len(set(alone)) == 6  # no two batches, hence no two epochs, are alike
    assert digests(shapes_loader(1)) == alone
    assert digests(shapes_loader(4)) == alone
    for start_step, num_workers in ((1, 0), (3, 4)):  # in mid-epoch
        assert digests(shapes_loader(num_workers, start_step=start_step)) == alone[start_step:]


def test_epochs_differ_in_each_sample() -> None:
    augment = train_transform(48)
    dataset = Shapes("train", transform=augment)
    dataset.seed = 1
    first, second = (dataset[SampleKey(epoch, 3, 5)] for epoch in (0, 1))
    assert not torch.equal(first[0], second[0])


def test_loaders_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    for num_workers in (0, 1):
        digests(shapes_loader(num_workers, num_epochs=1))
    dataset = Shapes("val")
    list(val_loader(dataset, [0, 1], batch_size=1, num_workers=1, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), before)


class Gaps(SegmentationDataset):
    """Samples 0 .. 9 of which every third, from 2 on, is bad; the image holds the index."""

    def __len__(self) -> int:
        return 10

    def sample(
        self, key: SampleKey, *, or_next: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        index = key.index
        if index % 3 == 2:
            return None
        pixels = torch.full((3, 2, 2 + index), index, dtype=torch.uint8)
        return pixels, pixels[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_samples_come_with_their_index_in_order_and_unstacked(num_workers: int) -> None:
    settings = {"batch_size": 2, "num_workers": num_workers, "pin_memory": False}
    loader = val_loader(Gaps(), [4, 2, 9, 1, 8, 5, 0], **settings)
    for _ in range(2):  # the same loader again
        found = list(loader)
        assert [[index for index, *_ in batch] for batch in found] == [[4], [9, 1], [], [0]]
        for index, image, label in (sample for batch in found for sample in batch):
            assert image.shape == (3, 2, 2 + index) and (image == index).all()
            assert label.shape == (2, 2 + index)


class Introspective(SegmentationDataset):
    """Tells about the process that loads it: process id, threads of torch and of OpenCV."""

    def __len__(self) -> int:
        return 4

    def sample(self, key: SampleKey, *, or_next: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        if key.index == 3:
            os.kill(os.getpid(), signal.SIGINT)  # must not end it
            time.sleep(0.05)
        facts = [os.getpid(), torch.get_num_threads(), cv2.getNumThreads()]
        return torch.tensor(facts), torch.tensor(0)


def told(loader: DataLoader) -> torch.Tensor:
    return torch.stack([image for batch in loader for _, image, _ in batch])


def test_workers_stay_have_one_thread_and_live_through_an_interrupt() -> None:
    loader = val_loader(Introspective(), range(4), batch_size=1, num_workers=1, pin_memory=False)
    first, second = told(loader), told(loader)
    assert torch.equal(first, second) and first[0, 0] != os.getpid()  # the same process
    assert (first[:, 1:] == torch.tensor([1, 1])).all()


def test_a_small_validation_set_starts_few_processes() -> None:
    settings = {"batch_size": 2, "num_workers": 40, "pin_memory": False}
    assert val_loader(Gaps(), range(3), **settings).num_workers == 2
    assert list(val_loader(Gaps(), [], **settings)) == []


DEADLY = """
import os, signal
from datasets import Shapes
from datasets.loader import val_loader, worker_death_line
from datasets.loader.workers import WorkerError

class Deadly(Shapes):
    def load(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.NUMBER)
        return super().load(index)

try:
    list(val_loader(Deadly("val"), range(9), batch_size=1, num_workers=2, pin_memory=False))
except WorkerError as error:
    print(worker_death_line(error))
"""


@pytest.mark.slow  # starts processes; test_endurance.py has a faster one
@pytest.mark.parametrize(
    ("number", "told"),
    [("SIGKILL", "(Killed)"), ("SIGBUS", "shared")],
)
def test_a_killed_worker_is_told_in_one_line(number: str, told: str) -> None:
    """In a process of its own: torch may raise the error again at any later moment."""
    script = DEADLY.replace("NUMBER", number)
    place = {"cwd": Path(__file__).parents[3], "timeout": 120}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, **place)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr
    assert len(ran.stdout.splitlines()) == 1
    assert "loader process" in ran.stdout and told in ran.stdout and "--num_workers" in ran.stdout


def test_data_that_does_not_come_is_said_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchedLoader, "patience", 0.2)
    dataset = Shapes("train")
    loader = val_loader(dataset, range(64), batch_size=1, num_workers=1, pin_memory=False)
    batches, said = iter(loader), []
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)

    def continue_it(line: str, *, error: bool) -> None:
        said.append(line)
        os.kill(worker.pid, signal.SIGCONT)

    monkeypatch.setattr("datasets.loader.loaders.say", continue_it)
    assert len(list(batches)) == 63
    assert said[0].startswith("no batch has come") and "kill -CONT" in said[0]
