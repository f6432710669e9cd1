from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets import SampleKey, Shapes
from datasets.loader import TrainSampler, train_loader, val_loader
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


def test_the_seed_changes_the_order() -> None:
    assert batches(seed=6) != batches()


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_batch_without_overlap(world_size: int) -> None:
    shares = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(batches(), *shares, strict=True):
        assert {len(part) for part in parts} == {4 // world_size}
        assert sorted(key for part in parts for key in part) == sorted(whole)


def test_loaders_leave_the_global_generator_alone_and_workers_change_nothing() -> None:
    dataset = Shapes("train", transform=train_transform(33), seed=1)
    sampler = TrainSampler(len(dataset), 2, seed=1, start_step=0, total_steps=3)
    before = torch.get_rng_state()
    alone = list(train_loader(dataset, sampler, num_workers=0, pin_memory=False))
    helped = list(train_loader(dataset, sampler, num_workers=2, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), before)
    for (images, labels), (same_images, same_labels) in zip(alone, helped, strict=True):
        assert images.shape == (2, 3, 33, 33) and images.dtype == torch.uint8
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)


def test_validation_pairs_come_in_order_and_unstacked() -> None:
    dataset = Shapes("val")
    loader = val_loader(dataset, [4, 2, 9], batch_size=2, num_workers=0, pin_memory=False)
    found = [pair for batch in loader for pair in batch]
    assert [len(batch) for batch in loader] == [2, 1]
    for (image, label), index in zip(found, [4, 2, 9], strict=True):
        assert np.array_equal(image, dataset[index][0]) and np.array_equal(label, dataset[index][1])
