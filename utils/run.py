"""A run, checked and built from the options before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import datasets
import network
from datasets.loader import TrainSampler, train_loader, val_loader
from utils import checkpoint, distributed, options
from utils import data as run_data
from utils.engine import Standing, Update, create_update
from utils.loss import Criterion
from utils.memory import keep_freed_memory
from utils.model import backbone_bn_momentum, build_model, load_pretrained
from utils.runtime.precision import autocast, set_float32_precision
from utils.signals import ignore_interrupts
from utils.utils import set_bn_momentum
from utils.visualizer import history


@dataclass(frozen=True)
class Run:
    """What :func:`prepare` checked and built; nothing of it is on disk yet."""

    opts: options.Options
    command: str
    world: distributed.World
    model: nn.Module
    normalize: nn.Module
    criterion: Criterion
    update: Update
    data: dict[str, datasets.SegmentationDataset]  # "train" but with --test_only, and "val"
    num_workers: int
    class_names: list[str]
    files: checkpoint.RunFiles
    saved: dict[str, Any]  # the checkpoint started from, or empty
    start: Path | None  # its file
    bn_momentum: float
    notes: list[str]  # what the user should know, one line each

    @cached_property
    def val_loader(self) -> DataLoader:
        """This process's validation images; its workers stay."""
        data = self.opts.data
        return val_loader(
            self.val_set,
            range(self.world.rank, len(self.val_set), self.world.size),
            batch_size=data.val_batch_size or (4 if data.crop_val else 1),
            num_workers=self.num_workers,
            pin_memory=self.world.device.type == "cuda",
            worker_init=ignore_interrupts,
        )

    def train_loader(self, start_step: int) -> tuple[TrainSampler, DataLoader]:
        """This process's training batches from ``start_step`` to the end, and their order."""
        sampler = TrainSampler(
            len(self.data["train"]),
            self.opts.data.batch_size,
            seed=self.opts.run.random_seed,
            start_step=start_step,
            total_steps=self.opts.optim.total_itrs,
            accumulation=self.opts.optim.grad_accumulation,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        return sampler, train_loader(
            self.data["train"],
            sampler,
            num_workers=self.num_workers,
            pin_memory=self.world.device.type == "cuda",
            worker_init=ignore_interrupts,
        )

    @property
    def val_set(self) -> datasets.SegmentationDataset:
        return self.data["val"]

    def autocast(self) -> torch.autocast:
        """The arithmetic of --precision."""
        return autocast(self.world.device, self.opts.optim.precision)

    def network_input(self, images: Tensor) -> Tensor:
        """uint8 (N,3,H,W) -> normalised, on the device, channels last: faster on CPU and GPU."""
        images = self.normalize(images.to(self.world.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last)

    def state(self, standing: Standing, rng_states: list[Any]) -> dict[str, Any]:
        """The checkpoint of this moment: all that `predict.py` and --continue_training need."""
        model, weights = self.model, self.criterion.weight
        return {
            "format": network.pretrained.FORMAT,
            "model_name": model.name,
            "build_args": model.build_args,
            "class_names": self.class_names,
            "palette": torch.from_numpy(self.val_set.palette.copy()),
            "mean": list(model.mean),
            "std": list(model.std),
            "model_state": model.state_dict(),
            **self.update.state(),
            "cur_itrs": standing.step,
            "best_score": standing.best_score,
            "best_itrs": standing.best,
            "num_worse": standing.num_worse,
            "bn_momentum": self.bn_momentum,
            "class_weights": None if weights is None else weights.tolist(),
            "rng": rng_states,
            "num_threads": torch.get_num_threads(),
            "num_train": len(self.data["train"]),
            "options": options.flat(self.opts),
            "command": self.command,
        }


def _start_point(
    opts: options.Options,
) -> tuple[checkpoint.RunFiles, int, str | None, dict, list[str]]:
    """The run's files, its output stride, the checkpoint to start from with its content, notes.

    Refuses to overwrite an earlier run unasked, or the checkpoint itself.
    """
    run, ckpt, notes = opts.run, opts.model.ckpt, []
    saved = network.pretrained.read_file(ckpt) if ckpt else {}
    asked = opts.model.output_stride
    if asked is None and saved.get("model_name") == opts.model.model:
        asked = saved["build_args"]["output_stride"]
    stride = network.resolve_output_stride(opts.model.model, asked)
    name = f"{opts.model.model}_{opts.data.dataset}_os{stride}"
    files = checkpoint.RunFiles(Path(run.output_dir), name)
    if run.test_only:
        return files, stride, ckpt, saved, notes
    if run.continue_training and ckpt is None:
        path, saved, notes = checkpoint.newest_readable(files, read=network.pretrained.read_file)
        ckpt = str(path)
    own = ckpt is not None and files.owns(ckpt)
    if run.overwrite and own:
        raise ValueError(f"--overwrite would delete {ckpt}, which the run starts from")
    if not (run.overwrite or (run.continue_training and own)):
        files.refuse_overwriting()
    if run.continue_training and own:
        history.read(files.history)  # a damaged one is an error now, not in mid-run
    return files, stride, ckpt, saved, notes


def _class_names(
    known: tuple[str, ...], asked: int | None, *, dataset: str
) -> tuple[int, list[str]]:
    """How many outputs the network gets, and the names of the classes."""
    if asked is not None and asked < len(known):
        raise ValueError(
            f"--num_classes {asked}: {dataset} has {len(known)} classes; "
            "leave it out, or give at least as many"
        )
    return asked or len(known), list(known)


def _changed_classes(
    opts: options.Options, saved: Mapping[str, Any], class_names: list[str]
) -> list[str]:
    """What to say of a checkpoint with other class names; going on with it is a ValueError."""
    then = list(saved.get("class_names", class_names))
    if then == class_names or opts.model.finetune:
        return []
    text = f"the checkpoint's classes are {', '.join(then)}, the data's {', '.join(class_names)}"
    if opts.run.continue_training or opts.run.test_only:
        raise ValueError(f"{text}; give the data set it is of")
    return [text]


def _build_criterion(
    opts: options.Options,
    train_set: datasets.SegmentationDataset | None,
    class_names: list[str],
    *,
    saved: Mapping[str, Any],
    workers: int,
    world: distributed.World,
) -> tuple[Criterion, list[str]]:
    """The loss, and what to say about its class weights."""
    optim = opts.optim
    weights, notes = run_data.class_weights(
        optim.class_weights,
        train_set,
        class_names,
        root=Path(opts.data.data_root),
        workers=workers,
        skip_bad=opts.data.skip_bad_files,
        trained_with=saved.get("class_weights"),
        world=world,
    )
    criterion = Criterion(
        optim.loss_type,
        options=vars(optim),
        class_weights=weights,
        aux_weight=optim.aux_loss,
    )
    return criterion, notes


def prepare(opts: options.Options, command: str) -> Run:
    """Check and build all that a run needs, so that mistakes show before anything is written.

    Raises ValueError or FileNotFoundError with one line that says what to do.
    """
    hint = options.torchrun_command(command, opts.run.gpu_id)
    world = distributed.start(opts.run.device, opts.run.gpu_id, torchrun_hint=hint)
    if world.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(opts.run.random_seed)
    set_float32_precision(opts.optim.precision)
    options.check_options(opts, world_size=world.size, sync_batchnorm=world.sync_batchnorm)
    files, stride, ckpt, saved, notes = _start_point(opts)
    facts = datasets.class_facts(opts.data.dataset, Path(opts.data.data_root), vars(opts.data))
    num_classes, class_names = _class_names(
        facts.class_names, opts.data.num_classes, dataset=opts.data.dataset
    )
    model, model_notes = build_model(
        opts.model,
        num_classes,
        stride=stride,
        saved=saved,
        ckpt=ckpt,
        aux_head=opts.optim.aux_loss > 0,
        continues=opts.run.continue_training,
        test_only=opts.run.test_only,
    )
    unused = range(len(class_names), model.build_args["num_classes"])
    class_names += [f"unused {number}" for number in unused]
    notes += _changed_classes(opts, saved, class_names)
    data = run_data.build_datasets(
        opts.data, opts.run.random_seed, test_only=opts.run.test_only, world=world
    )
    workers = run_data.num_workers(opts.data, world=world)
    criterion, weight_notes = _build_criterion(
        opts, data.get("train"), class_names, saved=saved, workers=workers, world=world
    )
    notes += model_notes + weight_notes
    if not saved:  # last: what has to be fetched comes after all that can be wrong without it
        notes += load_pretrained(model, opts.model.pretrained, world=world)
    bn_momentum = backbone_bn_momentum(opts.model, saved, continues=opts.run.continue_training)
    set_bn_momentum(model.backbone, momentum=bn_momentum)
    model = model.to(world.device, memory_format=torch.channels_last)
    torch.manual_seed(opts.run.random_seed + world.rank)  # dropout differs between processes
    update, resume_notes = create_update(opts, model, world=world, saved=saved, ckpt=ckpt)
    notes += options.without_effect(opts) + resume_notes
    notes += run_data.notes_on_data(opts, data, saved=saved, workers=workers, world=world)
    return Run(
        opts=opts,
        command=command,
        world=world,
        model=model,
        normalize=network.Normalize(model.mean, model.std).to(world.device),
        criterion=criterion.to(world.device),
        update=update,
        data=data,
        num_workers=workers,
        class_names=class_names,
        files=files,
        saved=saved,
        start=Path(ckpt) if ckpt else None,
        bn_momentum=bn_momentum,
        notes=notes,
    )
