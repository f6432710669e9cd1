"""A run, checked and built from the options before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import datasets
import network
from utils import checkpoint, distributed, history, options
from utils.ext_transforms import train_transform, val_transform
from utils.loss import create_loss, read_class_weights
from utils.model import backbone_bn_momentum, build_model, load_pretrained
from utils.optimizer import create_optimizer
from utils.scheduler import create_scheduler
from utils.utils import set_bn_momentum


@dataclass(frozen=True)
class Run:
    """What :func:`prepare` checked and built; nothing of it is on disk yet."""

    opts: options.Options
    command: str
    world: distributed.World
    model: nn.Module
    normalize: nn.Module
    criterion: nn.Module
    train_set: datasets.SegmentationDataset | None  # None with --test_only
    val_set: datasets.SegmentationDataset
    class_names: list[str]
    files: checkpoint.RunFiles
    saved: dict[str, Any]  # the checkpoint started from, or empty
    bn_momentum: float
    optimizer: torch.optim.Optimizer
    scheduler: Any
    notes: list[str]  # what the user should know, one line each

    def autocast(self) -> torch.autocast:
        """The arithmetic of --precision."""
        enabled = self.opts.optim.precision == "bf16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=enabled)

    def network_input(self, images: Tensor) -> Tensor:
        """uint8 (N,3,H,W) -> normalised, on the device, channels last: faster on CPU and GPU."""
        images = self.normalize(images.to(self.world.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last)

    def state(self, step: int, best_score: float, rng_states: list[Any]) -> dict[str, Any]:
        """The checkpoint of ``step``: all that `predict.py` and --continue_training need."""
        model = self.model
        return {
            "format": network.files.FORMAT,
            "model_name": model.name,
            "build_args": model.build_args,
            "class_names": self.class_names,
            "palette": torch.from_numpy(self.val_set.palette.copy()),
            "mean": list(model.mean),
            "std": list(model.std),
            "model_state": model.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "scheduler_state": self.scheduler.state_dict(),
            "cur_itrs": step,
            "best_score": best_score,
            "bn_momentum": self.bn_momentum,
            "rng": rng_states,
            "num_threads": torch.get_num_threads(),
            "options": options.flat(self.opts),
            "command": self.command,
        }


def _check_request(opts: options.Options, world_size: int) -> None:
    """Raise ValueError for options that make no sense together."""
    num_known = len(datasets.DATASETS[opts.data.dataset].class_names)
    if opts.data.num_classes is not None and opts.data.num_classes < num_known:
        raise ValueError(
            f"--num_classes {opts.data.num_classes}: {opts.data.dataset} has {num_known} classes; "
            "leave it out, or give at least as many"
        )
    if opts.data.num_classes is not None and opts.data.num_classes > 255:
        raise ValueError(f"--num_classes {opts.data.num_classes}: at most 255; 255 means ignored")
    low, high = opts.data.scale_range
    if low > high:
        raise ValueError(f"--scale_range {low} {high}: the smaller scale comes first")
    if opts.model.ckpt is None and opts.model.finetune:
        raise ValueError("--finetune needs --ckpt FILE: there is nothing to start from")
    if opts.model.finetune and (opts.run.test_only or opts.run.continue_training):
        other = "test_only" if opts.run.test_only else "continue_training"
        raise ValueError(f"--finetune gives a new last layer, --{other} needs the old: drop one")
    if opts.run.test_only:
        if opts.model.ckpt is None:
            raise ValueError("--test_only needs --ckpt FILE: there is nothing to test")
        return
    each, rest = divmod(opts.data.batch_size, world_size)
    if rest:
        raise ValueError(
            f"--batch_size {opts.data.batch_size} can't be shared equally by {world_size} processes"
        )
    if each < 2:
        raise ValueError(
            "a batch of 1 image per process: the BatchNorm behind ASPP's image pooling needs at "
            f"least 2 values; use --batch_size {2 * world_size} or more"
        )


def _start_point(opts: options.Options) -> tuple[checkpoint.RunFiles, int, str | None, dict]:
    """The run's files, its output stride, and the checkpoint to start from with its content.

    Refuses to overwrite an earlier run unasked, or the checkpoint itself.
    """
    run, ckpt = opts.run, opts.model.ckpt
    saved = network.pretrained.read_file(ckpt) if ckpt else {}
    asked = opts.model.output_stride
    if asked is None and saved.get("model_name") == opts.model.model:
        asked = saved["build_args"]["output_stride"]
    stride = network.resolve_output_stride(opts.model.model, asked)
    name = f"{opts.model.model}_{opts.data.dataset}_os{stride}"
    files = checkpoint.RunFiles(Path(run.output_dir), name)
    if run.test_only:
        return files, stride, ckpt, saved
    if run.continue_training and ckpt is None:
        if not files.latest.exists():
            raise FileNotFoundError(
                f"no checkpoint {files.latest} to continue from: nothing was saved there yet; "
                "give --ckpt FILE, or start anew without --continue_training"
            )
        ckpt = str(files.latest)
        saved = network.pretrained.read_file(ckpt)
    own = ckpt is not None and files.owns(ckpt)
    if run.overwrite and own:
        raise ValueError(f"--overwrite would delete {ckpt}, which the run starts from")
    if not (run.overwrite or (run.continue_training and own)):
        files.refuse_overwriting()
    if run.continue_training and own:
        history.read(files.history)  # a damaged one is an error now, not in mid-run
    return files, stride, ckpt, saved


def _build_datasets(
    data: options.DataOptions, seed: int, *, test_only: bool, world: distributed.World
) -> list[datasets.SegmentationDataset]:
    """Training (unless ``test_only``) and validation set."""
    # As the predecessor; its missing random scale on Cityscapes is not kept.
    jitter = 0.5 if data.dataset == "cityscapes" else 0.0
    augment = train_transform(data.crop_size, scale_range=data.scale_range, color_jitter=jitter)
    whole = val_transform(data.crop_size if data.crop_val else None)
    splits = {"val": whole} if test_only else {"train": augment, "val": whole}
    if data.download and not world.is_main:
        world.wait()  # until the main process has fetched it
    made = [
        datasets.create_dataset(
            data.dataset,
            split,
            root=data.data_root,
            transform=transform,
            seed=seed,
            year=data.year,
            download=data.download and data.dataset != "shapes",
        )
        for split, transform in splits.items()
    ]
    if data.download and world.is_main:
        world.wait()
    return made


def _build_optimisation(
    optim: options.OptimOptions, model: nn.Module
) -> tuple[torch.optim.Optimizer, Any]:
    """Optimizer and learning-rate schedule."""
    optimizer = create_optimizer(
        optim.optimizer,
        model,
        lr=optim.lr,
        backbone_lr_mult=optim.backbone_lr_mult,
        weight_decay=optim.weight_decay,
    )
    scheduler = create_scheduler(
        optim.lr_policy,
        optimizer,
        total_itrs=optim.total_itrs,
        step_size=optim.step_size,
        warmup_itrs=optim.warmup_itrs,
    )
    return optimizer, scheduler


def prepare(opts: options.Options, command: str) -> Run:
    """Check and build all that a run needs, so that mistakes show before anything is written.

    Raises ValueError or FileNotFoundError with one line that says what to do.
    """
    hint = options.torchrun_command(command, opts.run.gpu_id)
    world = distributed.start(opts.run.device, opts.run.gpu_id, torchrun_hint=hint)
    torch.manual_seed(opts.run.random_seed)
    _check_request(opts, world.size)
    files, stride, ckpt, saved = _start_point(opts)
    facts = datasets.DATASETS[opts.data.dataset]
    num_classes = opts.data.num_classes or len(facts.class_names)
    model, notes = build_model(opts.model, num_classes, stride=stride, saved=saved, ckpt=ckpt)
    unused = range(len(facts.class_names), model.build_args["num_classes"])
    class_names = [*facts.class_names, *(f"unused {number}" for number in unused)]
    criterion = create_loss(
        opts.optim.loss_type,
        focal_gamma=opts.optim.focal_gamma,
        focal_alpha=opts.optim.focal_alpha,
        class_weights=read_class_weights(opts.optim.class_weights, class_names),
    )
    *train_set, val_set = _build_datasets(
        opts.data, opts.run.random_seed, test_only=opts.run.test_only, world=world
    )
    if not saved:  # last: what has to be fetched comes after all that can be wrong without it
        notes += load_pretrained(model, opts.model.pretrained, world=world)
    bn_momentum = backbone_bn_momentum(opts.model, saved, continues=opts.run.continue_training)
    set_bn_momentum(model.backbone, momentum=bn_momentum)
    model = model.to(world.device, memory_format=torch.channels_last)
    optimizer, scheduler = _build_optimisation(opts.optim, model)
    torch.manual_seed(opts.run.random_seed + world.rank)  # dropout differs between processes
    notes += options.without_effect(opts)
    if opts.run.continue_training and not opts.run.test_only:
        notes += checkpoint.resume(
            saved,
            str(ckpt),
            optimizer=optimizer,
            scheduler=scheduler,
            options=options.flat(opts),
            rank=world.rank,
        )
        if saved["cur_itrs"] > opts.optim.total_itrs:
            raise ValueError(
                f"{ckpt} is at step {saved['cur_itrs']}, past --total_itrs {opts.optim.total_itrs}"
            )
    return Run(
        opts=opts,
        command=command,
        world=world,
        model=model,
        normalize=network.Normalize(model.mean, model.std).to(world.device),
        criterion=criterion.to(world.device),
        train_set=train_set[0] if train_set else None,
        val_set=val_set,
        class_names=class_names,
        files=files,
        saved=saved,
        bn_momentum=bn_momentum,
        optimizer=optimizer,
        scheduler=scheduler,
        notes=notes,
    )
