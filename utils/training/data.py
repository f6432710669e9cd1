"""The data of a run: the data sets, what their classes are, and how they are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch.utils.data import DataLoader

import datasets
from datasets import SegmentationDataset, check
from datasets.base import FileDataset
from datasets.loader import (
    SampleCache,
    TrainSampler,
    available_cores,
    check_shared_memory,
    default_num_workers,
    train_loader,
    val_loader,
)
from utils import options
from utils.ext_transforms import train_transform, val_transform
from utils.runtime.console import one_line, say
from utils.runtime.distributed import ALONE, World
from utils.training.start import StartPoint
from utils.utils import mkdir

T = TypeVar("T")

BRIEF = 8  # images of each split that are looked at before a training


@dataclass(frozen=True)
class RunData:
    """The data sets of a run, and this process's share of their batches."""

    opts: options.Options
    world: World
    train_set: SegmentationDataset | None  # None with --test_only
    val_set: SegmentationDataset
    class_names: list[str]  # one for each output of the network

    @property
    def num_workers(self) -> int:
        """Loader processes of this process: as asked, or by its share of the cores."""
        asked = self.opts.data.num_workers
        return default_num_workers(self.world.local_size) if asked is None else asked

    @property
    def slow_data_hint(self) -> str:
        """What helps where the network has to wait for data."""
        if isinstance(self.train_set, FileDataset) and self.train_set.cache is None:
            return "--cache DIR keeps decoded images, which are read much faster"
        return "try a larger --num_workers"

    @property
    def num_train(self) -> int:
        return 0 if self.train_set is None else len(self.train_set)

    def train_sampler(self, start_step: int) -> TrainSampler:
        """Which samples come in the steps after `start_step`."""
        return TrainSampler(
            self.num_train,
            self.opts.data.batch_size,
            seed=self.opts.run.random_seed,
            start_step=start_step,
            total_steps=self.opts.optim.total_itrs,
            accumulation=self.opts.optim.grad_accumulation,
            rank=self.world.rank,
            world_size=self.world.size,
        )

    def train_loader(self, start_step: int) -> DataLoader:
        """The training batches after `start_step`."""
        assert self.train_set is not None
        return train_loader(
            self.train_set,
            self.train_sampler(start_step),
            num_workers=self.num_workers,
            pin_memory=self.world.device.type == "cuda",
        )

    @cached_property
    def val_loader(self) -> DataLoader:
        """The validation images; its worker processes stay from one validation to the next."""
        data = self.opts.data
        return val_loader(
            self.val_set,
            range(self.world.rank, len(self.val_set), self.world.size),
            batch_size=data.val_batch_size or (4 if data.crop_val else 1),
            num_workers=self.num_workers,
            pin_memory=self.world.device.type == "cuda",
        )

    def names_in_step(self, step: int) -> list[str]:
        """The names of this process's training images in a step."""
        assert self.train_set is not None
        return [self.train_set.sample_name(key.index) for key in self.train_sampler(0).keys(step)]


def grouped(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` batches, one list for each step; the last may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def load_data(opts: options.Options, *, start: StartPoint, world: World) -> RunData:
    """Find the images of the run, name the classes, and look at a few images.

    Raises ValueError and FileNotFoundError for data that is missing or does not fit the options or
    the checkpoint.
    """
    data = opts.data
    facts = datasets.class_facts(data.dataset, Path(data.data_root), vars(data))
    class_names = _output_names(facts.class_names, data.num_classes, dataset=data.dataset)
    _compare_classes(opts, start, class_names)
    sets = build_datasets(opts, world=world)
    run_data = RunData(opts, world, sets.get("train"), sets["val"], class_names)
    start.notes.extend([note for dataset in sets.values() for note in dataset.notes])
    start.notes.extend(_notes_on_data(run_data, start=start))
    return run_data


def _output_names(known: tuple[str, ...], asked: int | None, *, dataset: str) -> list[str]:
    """The name of each output of the network; outputs beyond the classes are "unused N"."""
    if asked is not None and asked < len(known):
        raise ValueError(
            f"--num_classes {asked}: {dataset} has {len(known)} classes; leave it out, or give at "
            "least as many"
        )
    return [*known, *(f"unused {number}" for number in range(len(known), asked or len(known)))]


def _compare_classes(opts: options.Options, start: StartPoint, class_names: list[str]) -> None:
    """Note that the checkpoint has other class names; ValueError if the run resumes or tests it."""
    then = list(start.saved.get("class_names", class_names))
    if then == class_names or opts.model.finetune:
        return
    text = f"the checkpoint's classes are {', '.join(then)}, the data's {', '.join(class_names)}"
    if start.resumes or opts.run.test_only:
        raise ValueError(f"{text}; give the data set it was trained on")
    start.notes.append(text)


def build_datasets(opts: options.Options, *, world: World) -> dict[str, SegmentationDataset]:
    """The data sets "train" (except with --test_only) and "val"."""
    data = opts.data
    own_jitter = datasets.DATASETS[data.dataset].color_jitter
    train_pipeline = train_transform(
        data.crop_size,
        scale_range=data.scale_range,
        color_jitter=own_jitter if data.color_jitter is None else data.color_jitter,
        cat_max_ratio=data.cat_max_ratio,
    )
    val_pipeline = val_transform(data.crop_size if data.crop_val else None)
    wanted = {} if opts.run.test_only else {"train": (data.train_split, train_pipeline)}
    wanted["val"] = ("val", val_pipeline)

    def build() -> dict[str, SegmentationDataset]:
        return {
            name: datasets.create_dataset(
                data.dataset,
                split,
                root=Path(data.data_root),
                options=vars(data),
                transform=transform,
                seed=opts.run.random_seed,
                allow_missing=data.skip_bad_files or data.check_data,
            )
            for name, (split, transform) in wanted.items()
        }

    made = world.main_first(build) if data.download else build()
    reserved = 0  # bytes of the disk that the caches before this one will take
    for dataset in made.values():
        dataset.skip_bad_files = data.skip_bad_files
        if data.cache and not data.check_data and isinstance(dataset, FileDataset):
            dataset.cache = SampleCache(Path(data.cache), dataset, reserved=reserved)
            reserved += dataset.cache.missing_bytes
    return made


def _notes_on_data(run_data: RunData, *, start: StartPoint) -> list[str]:
    """What the user should know of the machine and the data, one line each."""
    opts, world, notes = run_data.opts, run_data.world, []
    then, now = start.saved.get("num_train", run_data.num_train), run_data.num_train
    if start.resumes and then != now:
        notes.append(
            f"the training set had {then} images, now it has {now}: the batches are not those of "
            "the uninterrupted run"
        )
    shared_memory = check_shared_memory(
        4 * opts.data.crop_size**2 * (opts.data.batch_size // world.size),
        num_workers=run_data.num_workers,
        local_world_size=world.local_size,
    )
    if shared_memory:
        notes.append(shared_memory)
    if world.is_main and run_data.train_set is not None:
        notes += _brief_check({"train": run_data.train_set, "val": run_data.val_set}, opts.data)
    return notes


def _by_split(
    sets: Mapping[str, SegmentationDataset], train_split: str
) -> dict[str, SegmentationDataset]:
    """The data sets by their splits' names: trainval may share images with val, train must not."""
    return {train_split if name == "train" else name: dataset for name, dataset in sets.items()}


def _brief_check(sets: Mapping[str, SegmentationDataset], data: options.DataOptions) -> list[str]:
    """What a look at a few images of each split finds, one line each.

    Raises DataError for one that can't be read: it would end the training later.
    """
    report = check.check(
        _by_split(sets, data.train_split),
        num_workers=0,
        sample=BRIEF,
        progress=False,
        skip_bad_files=data.skip_bad_files,
    )
    unreadable = [error for split in report.splits.values() for error in split.errors]
    if unreadable and not data.skip_bad_files:
        hint = "--check_data looks at all files, --skip_bad_files leaves out such ones"
        raise datasets.DataError(f"{unreadable[0]}; {hint}")
    lines = report.problems + report.notes
    if data.train_split == "trainval":
        lines.append("training uses the validation images: the scores say nothing about new ones")
    return [f"data: {line}" for line in lines]


def check_data(opts: options.Options) -> int:
    """Run --check_data; returns the exit code."""
    sets = _by_split(build_datasets(opts, world=ALONE), opts.data.train_split)
    workers = opts.data.num_workers
    report = check.check(
        sets,
        num_workers=available_cores() if workers is None else workers,
        skip_bad_files=opts.data.skip_bad_files,
    )
    notes = options.without_effect(opts) + [n for dataset in sets.values() for n in dataset.notes]
    for note in dict.fromkeys(notes):
        say(one_line(f"note: {note}"))
    say(report.text())
    if report.sheet_samples:
        folder = Path(opts.run.output_dir)
        mkdir(folder)
        sheet = folder / f"data_{opts.data.dataset}.png"
        check.save_contact_sheet(sets, report.sheet_samples, sheet)
        say(one_line(f"contact sheet: {sheet}"))
    return 0 if report.ok else 1
