"""What a run shows and leaves beside its checkpoints: history, pictures, tables, the dashboard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metrics import StreamSegMetrics
from utils import distributed, options
from utils.run import Run
from utils.runtime.console import say
from utils.visualizer import (
    History,
    Trackers,
    Visualizer,
    figures,
    history,
    pictures,
    tolerate_write_errors,
)

SHOWN = 8  # file names in a line


def announce(run: Run) -> None:
    """Print what is about to run, and what the user should know of it."""
    opts, world = run.opts, run.world
    for note in dict.fromkeys(run.notes):
        world.say(note)
    kind = f"{torch.cuda.get_device_name(world.device)}" if world.device.type == "cuda" else "cpu"
    num_train = f"{len(run.data['train'])} images to train on, " if "train" in run.data else ""
    lines = [
        f"{opts.model.model}: {sum(p.numel() for p in run.model.parameters()):,} parameters, "
        f"{len(run.class_names)} classes, output stride {run.model.build_args['output_stride']}",
        f"{opts.data.dataset}: {num_train}{len(run.val_set)} to validate, "
        f"{run.num_workers} loader processes",
        f"torch {torch.__version__} on {kind}, {opts.optim.precision}, {world.size} process(es)",
    ]
    if "train" in run.data:
        batch, several = opts.data.batch_size, opts.optim.grad_accumulation
        lines.append(
            f"effective batch {batch * several} ({batch // world.size} images x {world.size} "
            f"process(es) x {several} accumulated), lr {opts.optim.lr:g}, "
            f"{opts.optim.lr * opts.optim.backbone_lr_mult:g} in the backbone"
        )
    if opts.run.continue_training and not opts.run.test_only:
        step, total = run.saved["cur_itrs"], opts.optim.total_itrs
        lines.append(f"continuing at step {step} of {total}" + ", its end" * (step == total))
    world.say("\n".join(lines))


def say_where(run: Run) -> None:
    """Print where the checkpoints and pictures are."""
    files = run.files
    found = ", ".join(str(path) for path in (files.latest, files.best) if path.exists())
    run.world.say(f"checkpoints {found}\npictures in {files.folder}")


def mean_loss(world: distributed.World, losses: Sequence[Tensor]) -> float:
    """Mean of steps' losses, of which each process has its share; those that are NaN left out.

    Waits for the device.
    """
    whole = world.sum(torch.stack(list(losses)))
    return whole[whole.isfinite()].mean().item()


def say_skipped(run: Run, split: str, *, at_step: int | None = None) -> None:
    """At an epoch's end say how many files of ``split`` could not be read (--skip_bad_files)."""
    dataset, epoch = run.data[split], ""
    if at_step is not None:
        images = run.opts.data.batch_size * run.opts.optim.grad_accumulation
        before, now = ((at_step - back) * images // len(dataset) for back in (1, 0))
        if before == now:
            return
        epoch = f"epoch {now}: "
    cache = getattr(dataset, "cache", None)
    if cache is not None and cache.problem():
        run.world.say(cache.problem())
    if not run.opts.data.skip_bad_files:
        return
    bad = sorted(set().union(*run.world.gather(dataset.bad_indices())))
    names = ", ".join(dataset.sample_name(index) for index in bad[:SHOWN])
    more = ", ..." if len(bad) > SHOWN else ""
    run.world.say(
        f"{epoch}{len(bad)} of {len(dataset)} {split} files skipped"
        + f": {names}{more}" * bool(bad)
    )


def show_sample(
    run: Run,
    step: int,
    trackers: Trackers,
    index: int,
    image: Tensor,
    label: Tensor,
    predicted: Tensor,
) -> None:
    """Save a validation image's result if asked, and show it if it is one of the samples.

    ``image`` is uint8 (3,H,W), ``label`` and ``predicted`` are (H,W), all on the CPU.
    """
    opts, palette, name = run.opts, run.val_set.palette, run.val_set.sample_name(index)
    num_samples = min(opts.vis.vis_num_samples, len(run.val_set))
    samples = np.linspace(0, len(run.val_set) - 1, num_samples).astype(int)
    samples -= samples % run.world.size  # those the main process validates
    is_sample = index in samples
    if not (is_sample or opts.run.save_val_results):
        return
    pixels, target, prediction = image.permute(1, 2, 0).numpy(), label.numpy(), predicted.numpy()
    if opts.run.save_val_results:
        with tolerate_write_errors():
            pictures.save_result(
                run.files.folder / "results",
                name,
                image=pixels,
                target=target,
                prediction=prediction,
                palette=palette,
            )
    if is_sample:
        panels = [pixels, palette[target], palette[prediction]]
        trackers.image(name, step, pictures.side_by_side(panels))


def report_validation(
    run: Run,
    step: int,
    trackers: Trackers,
    metrics: StreamSegMetrics,
    loss: float,
    seconds: float,
) -> None:
    """Print a validation's scores, and hand them to the trackers with the pictures."""
    scores, folder = metrics.get_results(), run.files.folder
    how = f"centre crops of {run.opts.data.crop_size}, not comparable with published numbers"
    lines = [
        f"validation at step {step}: {len(run.val_set)} images in {seconds:.1f} s, "
        + (how if run.opts.data.crop_val else "whole images")
        + f", loss {loss:.4f}",
        metrics.class_table(scores) + metrics.to_str(scores),
    ]
    if run.opts.run.save_val_results:
        lines.append(f"results in {folder / 'results'}")
    say("\n".join(lines))
    overall = {name: value for name, value in scores.items() if isinstance(value, float)}
    trackers.scalars(step, overall | {"validation loss": loss})
    trackers.table("classes", step, metrics.class_rows(scores))
    if not run.opts.run.test_only:
        with tolerate_write_errors():
            figures.save_curves(history.read(run.files.history), folder / "curves.png")
            figures.save_confusion(metrics.confusion, run.class_names, folder / "confusion.png")
        for name in ("curves", "confusion"):
            trackers.figure(name, step, folder / f"{name}.png")


def start_trackers(run: Run) -> Trackers:
    """History and dashboard of the main process; makes the run's folder. None in the others."""
    if not run.world.is_main:
        return Trackers()
    opts, files, trackers, past = run.opts, run.files, [], []
    if not opts.run.test_only:
        resuming = opts.run.continue_training
        if opts.run.overwrite:
            files.clear()
        files.tidy(run.start)
        resume_step = run.saved["cur_itrs"] if resuming else None
        trackers.append(History(files.history, resume_step=resume_step))
        past = history.read(files.history)
    if opts.vis.enable_vis:
        trackers.append(Visualizer(port=opts.vis.vis_port, env=opts.vis.vis_env, history=past))
    trackers = Trackers(*trackers)
    trackers.text("options", {"command": run.command, **options.flat(opts)})
    return trackers
