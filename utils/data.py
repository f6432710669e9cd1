"""The data sets of a run, looked at before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import datasets
from datasets import check
from datasets.base import FileDataset
from datasets.loader import SampleCache, check_shared_memory, default_num_workers
from utils import distributed, options
from utils.class_weights import read_class_weights
from utils.ext_transforms import train_transform, val_transform
from utils.utils import mkdir

BRIEF = 8  # images of each split that are looked at before a training


def num_workers(data: options.DataOptions, *, world: distributed.World) -> int:
    """Loader processes of this process: as asked, else by its share of the cores."""
    if data.num_workers is not None:
        return data.num_workers
    return default_num_workers(world.local_size)


def build_datasets(
    data: options.DataOptions, seed: int, *, test_only: bool, world: distributed.World
) -> dict[str, datasets.SegmentationDataset]:
    """The data sets "train" (unless ``test_only``) and "val"."""
    own_jitter = datasets.DATASETS[data.dataset].color_jitter
    augment = train_transform(
        data.crop_size,
        scale_range=data.scale_range,
        color_jitter=own_jitter if data.color_jitter is None else data.color_jitter,
        cat_max_ratio=data.cat_max_ratio,
    )
    whole = val_transform(data.crop_size if data.crop_val else None)
    wanted = {} if test_only else {"train": (data.train_split, augment)}
    wanted["val"] = ("val", whole)

    def build() -> dict[str, datasets.SegmentationDataset]:
        return {
            name: datasets.create_dataset(
                data.dataset,
                split,
                root=Path(data.data_root),
                options=vars(data),
                transform=transform,
                seed=seed,
                allow_missing=data.skip_bad_files or data.check_data,
            )
            for name, (split, transform) in wanted.items()
        }

    made = world.main_first(build) if data.download else build()
    reserved = 0  # of the disk, for the caches before
    for dataset in made.values():
        dataset.skip_bad_files = data.skip_bad_files
        if data.cache and isinstance(dataset, FileDataset):
            dataset.cache = SampleCache(Path(data.cache), dataset, reserved=reserved)
            reserved += dataset.cache.missing_bytes
    return made


def _for_check(
    made: dict[str, datasets.SegmentationDataset], train_split: str
) -> dict[str, datasets.SegmentationDataset]:
    """The data sets under their splits' names: trainval may hold what val holds, train may not."""
    return {train_split if name == "train" else name: dataset for name, dataset in made.items()}


def shared_memory_note(
    data: options.DataOptions, *, workers: int, world: distributed.World
) -> list[str]:
    """What to say where batches may not fit on their way from the loader processes."""
    note = check_shared_memory(
        4 * data.crop_size**2 * (data.batch_size // world.size),
        num_workers=workers,
        local_world_size=world.local_size,
    )
    return [note] if note else []


def brief_check(
    made: dict[str, datasets.SegmentationDataset], data: options.DataOptions
) -> list[str]:
    """What a look at a few images of each split finds, one line each."""
    report = check.check(
        _for_check(made, data.train_split),
        num_workers=0,
        sample=BRIEF,
        progress=False,
        skip_bad_files=data.skip_bad_files,
    )
    lines = report.problems + report.notes
    if data.train_split == "trainval":
        lines.append("what is validated is trained on too: the scores say nothing of new images")
    return [f"data: {line}" for line in lines]


def notes_on_data(
    opts: options.Options,
    data: Mapping[str, datasets.SegmentationDataset],
    *,
    saved: Mapping[str, Any],
    workers: int,
    world: distributed.World,
) -> list[str]:
    """What the user should know of the machine and the data, one line each."""
    notes = [note for dataset in data.values() for note in dataset.notes]
    if opts.optim.precision == "tf32" and world.device.type != "cuda":
        notes.append(f"--precision tf32 has no effect on {world.device.type}: it is fp32 there")
    num_train = len(data.get("train", ()))
    if opts.run.continue_training and saved.get("num_train", num_train) != num_train > 0:
        notes.append(
            f"{saved['num_train']} images were trained on then, {num_train} now: the batches are "
            "others than the undisturbed run's"
        )
    notes += shared_memory_note(opts.data, workers=workers, world=world)
    if world.is_main and not opts.run.test_only:
        notes += brief_check(dict(data), opts.data)
    return notes


def check_data(opts: options.Options) -> int:
    """Run --check_data; returns the exit code."""
    world = distributed.World(0, 1, torch.device("cpu"))
    data = dataclasses.replace(opts.data, cache=None)
    made = build_datasets(data, opts.run.random_seed, test_only=False, world=world)
    made = _for_check(made, data.train_split)
    folder = Path(opts.run.output_dir)
    mkdir(folder)
    sheet = folder / f"data_{opts.data.dataset}.png"
    report = check.check(
        made,
        num_workers=num_workers(opts.data, world=world),
        skip_bad_files=opts.data.skip_bad_files,
    )
    notes = options.without_effect(opts)
    for note in dict.fromkeys(notes + [n for dataset in made.values() for n in dataset.notes]):
        print(f"note: {note}")
    print(report.text())
    if report.sheet_samples:
        check.save_contact_sheet(made, report.sheet_samples, sheet)
        print(f"contact sheet: {sheet}")
    return 0 if report.ok else 1


def class_weights(
    asked: str,
    train_set: datasets.SegmentationDataset | None,
    class_names: list[str],
    *,
    root: Path,
    workers: int,
    skip_bad: bool,
    trained_with: list[float] | None,
    world: distributed.World,
) -> tuple[Tensor | None, list[str]]:
    """The loss weights (C,) of --class_weights, or None; and what to say about them."""
    if asked != "auto":
        return read_class_weights(asked, class_names), []
    if train_set is None:  # --test_only: those the loss had in training, if it is known
        return None if trained_with is None else torch.tensor(trained_with), []
    weights, notes = world.main_first(
        lambda: check.class_weights(
            train_set,
            kept_in=root,
            num_workers=workers,
            progress=world.is_main,
            skip_bad_files=skip_bad,
        )
    )
    unused = len(class_names) - len(weights)
    return torch.cat([torch.from_numpy(weights), torch.zeros(unused)]), notes
