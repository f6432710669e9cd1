"""Checks and builds all that a run needs, so that mistakes show before anything is written."""

from __future__ import annotations

import torch

import network
from datasets.loader import PREFETCH, default_num_workers
from utils import options
from utils.loss import Criterion
from utils.optimizer import create_optimizer
from utils.runtime import checkpoint, distributed, limits
from utils.runtime.console import size_text
from utils.runtime.distributed import World
from utils.runtime.lock import RunLock
from utils.runtime.memory import keep_freed_memory
from utils.runtime.precision import set_float32_precision
from utils.scheduler import create_scheduler
from utils.training.class_weights import class_weights
from utils.training.data import RunData, load_data
from utils.training.ema import Ema
from utils.training.model import build_model, load_backbone_weights
from utils.training.run import Run
from utils.training.start import StartPoint, find_start
from utils.training.step import OptimizerStep


def prepare(opts: options.Options, command: str, *, lock: RunLock | None = None) -> Run:
    """Build all of a run, in this order: processes, files, data, model, loss, optimizer's step.

    A run that trains takes the `lock`, if there is one; the caller releases it, also after an
    error. Raises ValueError or FileNotFoundError with one line that says what to do.
    """
    world = _start_world(opts, command)
    options.check_options(opts, world_size=world.size, sync_batchnorm=world.sync_batchnorm)
    check_machine(opts, world=world)
    start = find_start(opts, world=world, lock=lock)
    start.notes.extend(options.without_effect(opts))
    data = load_data(opts, start=start, world=world)
    torch.manual_seed(opts.run.random_seed)  # the weights are the same in all processes
    model = build_model(opts, num_classes=len(data.class_names), start=start)
    criterion = build_criterion(opts, data, start=start, world=world)
    # Download weights only after all checks that need none.
    load_backbone_weights(model, opts.model.pretrained, start=start, world=world)
    model = model.to(world.device).to(memory_format=torch.channels_last)
    torch.manual_seed(opts.run.random_seed + world.rank)  # dropout differs between processes
    optimizer_step = build_step(opts, model, start=start, world=world)
    return Run(
        opts=opts,
        command=command,
        world=world,
        start=start,
        data=data,
        model=model,
        criterion=criterion,
        optimizer_step=optimizer_step,
    )


def _start_world(opts: options.Options, command: str) -> World:
    """The processes of the run, with their device, memory and arithmetic set."""
    hint = options.torchrun_command(command, opts.run.gpu_id)
    world = distributed.start(opts.run.device, opts.run.gpu_id, torchrun_hint=hint)
    if world.device.type == "cpu":
        keep_freed_memory()
    set_float32_precision(opts.optim.precision)
    return world


def check_machine(opts: options.Options, *, world: World) -> None:
    """Raise ValueError if the loader processes or the batches on their way have no room here.

    What a GPU has room for depends on the network; there it shows in the first step.
    """
    data, several = opts.data, opts.optim.grad_accumulation
    asked = data.num_workers
    num_workers = default_num_workers(world.local_size) if asked is None else asked
    # Those of training stay while those of validation work.
    processes = num_workers * world.local_size * (1 if opts.run.test_only else 2)
    if processes > (allowed := limits.process_limit()):
        raise ValueError(
            f"--num_workers {num_workers}: the run needs {processes} loader processes, but the "
            f"system allows only {allowed:.0f} more; use a smaller --num_workers"
        )
    if opts.run.test_only:
        return
    # Fetched ahead, and collected for one step.
    batches = min(num_workers * PREFETCH + several, opts.optim.total_itrs * several)
    each = 4 * data.crop_size**2 * (data.batch_size // world.size)  # an RGB image and its label
    needed = batches * each * world.local_size
    if needed > (free := limits.memory_limit()):
        raise ValueError(
            f"--batch_size {data.batch_size}, --crop_size {data.crop_size}: {batches} batches on "
            f"their way to training need {size_text(needed)}, but only {size_text(free)} of memory "
            "are free; use smaller ones, or a smaller --num_workers or --grad_accumulation"
        )


def build_criterion(
    opts: options.Options, data: RunData, *, start: StartPoint, world: World
) -> Criterion:
    """The loss, with the class weights it asks for."""
    optim = opts.optim
    return Criterion(
        optim.loss_type,
        options=vars(optim),
        class_weights=class_weights(opts, data, start=start, world=world),
        aux_weight=optim.aux_loss,
    ).to(world.device)


def build_step(
    opts: options.Options, model: network.DeepLabV3, *, start: StartPoint, world: World
) -> OptimizerStep:
    """The optimizer with its schedule, scaler and average, restored if the run resumes."""
    optim = opts.optim
    optimizer = create_optimizer(
        optim.optimizer,
        model,
        lr=optim.lr,
        backbone_lr_mult=optim.backbone_lr_mult,
        weight_decay=optim.weight_decay,
        no_decay_norm_bias=optim.no_decay_norm_bias,
        fused=world.device.type == "cuda",
    )
    scheduler = create_scheduler(
        optim.lr_policy,
        optimizer,
        total_itrs=optim.total_itrs,
        step_size=optim.step_size,
        warmup_itrs=optim.warmup_itrs,
    )
    step = OptimizerStep(
        model,
        optimizer,
        scheduler,
        world=world,
        max_bad_steps=optim.max_bad_steps,
        scaler=torch.amp.GradScaler(world.device.type, enabled=optim.precision == "fp16"),
        ema=Ema(model, optim.ema) if optim.ema else None,
        max_norm=optim.clip_grad_norm or 0.0,
    )
    if optim.precision == "tf32" and world.device.type != "cuda":
        start.notes.append(
            f"--precision tf32 has no effect on {world.device.type}: it computes in fp32"
        )
    if start.resumes:
        restore_training_state(step, opts, start=start, world=world)
    return step


def restore_training_state(
    step: OptimizerStep, opts: options.Options, *, start: StartPoint, world: World
) -> None:
    """Put the checkpoint's training state in place, and note what differs from then."""
    saved, total = start.saved, opts.optim.total_itrs
    step.load(saved, source=str(start.ckpt))
    if start.step > total:
        raise ValueError(f"{start.ckpt} is at step {start.step}, past --total_itrs {total}")
    rng = saved.get("rng", ())
    if not checkpoint.restore_rng(rng, world.rank):
        start.notes.append(
            "the checkpoint has no random state for this process and its device: dropout differs"
        )
    if rng and len(rng) != world.size:
        start.notes.append(
            f"the run had {len(rng)} process(es), now it has {world.size}: dropout differs, and "
            "sums round differently"
        )
    start.notes.extend(options.changes_on_resume(saved.get("options", {}), options.flat(opts)))
    threads = saved.get("num_threads", torch.get_num_threads())
    if threads != torch.get_num_threads():
        start.notes.append(
            f"the run had {threads} threads, now it has {torch.get_num_threads()}: sums round "
            "differently"
        )
    if opts.optim.ema and "ema_state" not in saved:
        start.notes.append(
            "the checkpoint has no averaged weights: the average starts from its weights"
        )
    if "ema_state" in saved and not opts.optim.ema:
        start.notes.append("the checkpoint's averaged weights are dropped")
