"""What a run prints, shows and leaves beside its checkpoints."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.loader import Sample
from metrics import StreamSegMetrics
from utils import options
from utils.runtime import environment
from utils.runtime.console import list_names, one_line, say
from utils.training.run import Run
from utils.training.step import TrainingState
from utils.visualizer import (
    Dashboard,
    History,
    SampleRows,
    SampleSelection,
    TensorBoard,
    Tracker,
    Trackers,
    ValidatedSample,
    batch_sheet,
    class_table,
    colors,
    env_of_run,
    history,
    image_scores,
    pictures,
    save_report,
    save_views,
    summary,
    tolerate_write_errors,
)


def announce(run: Run) -> None:
    """Print what is about to run, and what the user should know about it."""
    opts, world, data = run.opts, run.world, run.data
    for note in dict.fromkeys(run.start.notes):
        world.say(one_line(note))
    training = not opts.run.test_only
    num_train = f"{data.num_train} images to train on, " if training else ""
    lines = [
        f"{run.model.name}: {sum(p.numel() for p in run.model.parameters()):,} parameters, "
        f"{len(data.class_names)} classes, output stride {run.model.build_args['output_stride']}",
        f"{opts.data.dataset}: {num_train}{len(data.val_set)} to validate, "
        f"{data.num_workers} loader processes",
        f"torch {torch.__version__} on {environment.device_name(world.device)}, "
        f"{opts.optim.precision}, {world.size} process(es)",
    ]
    if training:
        batch, several = opts.data.batch_size, opts.optim.grad_accumulation
        lines.append(
            f"effective batch {batch * several} ({batch // world.size} images x {world.size} "
            f"process(es) x {several} accumulated), lr {opts.optim.lr:g}, "
            f"{opts.optim.lr * opts.optim.backbone_lr_mult:g} in the backbone"
        )
    if run.start.resumes:
        step, total = run.start.step, opts.optim.total_itrs
        end = ", which is the end" if step == total else ""
        due = ", with its validation" if run.start.saved.get("validation_due") else ""
        lines.append(f"training continues at step {step} of {total}{due}{end}")
    world.say("\n".join(lines))


def say_end(run: Run) -> None:
    """Print how far the run came and how good it is, and where everything is."""
    if not run.world.is_main:
        return
    files, lines = run.files, list[str]()
    with tolerate_write_errors():
        record = history.read(files.history)
        steps, scores = history.series(record, history.SCORE)
        walls = history.series(record, "wall time")[1]
        took = timedelta(seconds=round(max(walls, default=0.0)))
        line = f"trained {max((entry['step'] for entry in record), default=0):,} steps in {took}"
        if record and record[-1]["step"] not in steps:  # stopped between two validations
            save_report(files.folder)
        if best := history.best_validation(record):
            line += f": best mIoU {best[1]:.3f} at step {best[0]:,}, last {scores[-1]:.3f}"
        lines.append(line)
    kept = [path for path in (files.latest, files.best) if path.exists()]
    lines.append(one_line(f"checkpoints: {', '.join(map(str, kept))}"))
    page = files.folder / "report.html"
    lines.append(one_line(f"report: {page if page.exists() else files.folder}"))
    if kept:
        command = ["python", "predict.py", "--ckpt", str(kept[-1]), "--input", "IMAGES"]
        lines.append(f"predict: {options.to_type(command)}")
    say("\n".join(lines))


def show_train_batch(run: Run, trackers: Trackers, images: Tensor, labels: Tensor) -> None:
    """Show the first batch as the network sees it: augmentation is what people get wrong."""
    pixels, ids = images.permute(0, 2, 3, 1).numpy(), labels.numpy()
    names, palette = run.data.class_names, run.data.val_set.facts.palette
    if run.world.is_main:
        trackers.image("train_batch", 0, batch_sheet(pixels, ids, names, palette))


def say_stopped(run: Run, state: TrainingState, *, signal: str | None) -> None:
    """Print why the run stopped before its end, and the command that continues it."""
    if signal is None:
        why = (
            f"no better score since step {state.best_step}; to continue with a larger --early_stop"
        )
    else:
        why = f"{signal} came; to continue"
    run.world.say(f"stopped after step {state.step} of {run.opts.optim.total_itrs}: {why}:")
    run.world.say(options.resume_command(run.command, processes=run.world.local_size))


def say_skipped(run: Run, split: str, *, at_step: int | None = None) -> None:
    """Print how many files of "train" or "val" could not be read (--skip_bad_files).

    With `at_step`, a training step, it does so only where an epoch ends.
    """
    dataset, epoch = run.data.train_set if split == "train" else run.data.val_set, ""
    assert dataset is not None
    if at_step is not None:
        images = run.opts.data.batch_size * run.opts.optim.grad_accumulation
        before, now = ((at_step - back) * images // len(dataset) for back in (1, 0))
        if before == now:
            return
        epoch = f"epoch {now}: "
    cache = getattr(dataset, "cache", None)
    if cache is not None and cache.problem():
        run.world.say(one_line(cache.problem()))
    if not run.opts.data.skip_bad_files:
        return
    bad = sorted(set().union(*run.world.gather(dataset.bad_indices())))
    names = f": {list_names([dataset.sample_name(index) for index in bad])}" if bad else ""
    run.world.say(one_line(f"{epoch}{len(bad)} of {len(dataset)} {split} files skipped{names}"))


def look_at(
    run: Run, selection: SampleSelection, loaded: Sample, predicted: Tensor, counts: Tensor
) -> None:
    """Save a validation image's result if asked, and let `selection` decide whether to show it.

    `predicted` is (H,W), `counts` (C,C) this image's; the image is on the CPU.
    """
    index, image, label = loaded
    name, miou, wrong = run.data.val_set.sample_name(index), *image_scores(counts.cpu().numpy())

    def made() -> ValidatedSample:
        pixels, prediction = image.permute(1, 2, 0).numpy(), predicted.cpu().numpy()
        return ValidatedSample(
            name, pixels, label.numpy(), prediction.astype(np.uint8), miou, wrong
        )

    selection.add(index, miou, made)
    if run.opts.run.save_val_results:
        sample = made()
        with tolerate_write_errors():
            pictures.save_result(
                run.files.folder / "results",
                name,
                image=sample.image,
                target=sample.target,
                prediction=sample.prediction,
                palette=run.data.val_set.facts.palette,
            )


def start_selection(run: Run) -> SampleSelection:
    """Chooses among the images that this process validates; only the main process shows some."""
    indices = range(run.world.rank, len(run.data.val_set), run.world.size)
    return SampleSelection(indices, run.opts.vis.vis_num_samples if run.world.is_main else 0)


def report_validation(
    run: Run,
    step: int,
    trackers: Trackers,
    metrics: StreamSegMetrics,
    loss: float,
    seconds: float,
    selection: SampleSelection,
) -> None:
    """Print a validation's scores, and hand them to the trackers with the pictures."""
    scores, folder = metrics.get_results(), run.files.folder
    crop = f"center crops of {run.opts.data.crop_size}, not comparable with published numbers"
    how = crop if run.opts.data.crop_val else "whole images"
    if run.opts.run.test_only and len(run.opts.run.scales) * (1 + run.opts.run.flip) > 1:
        scales = " ".join(map(str, run.opts.run.scales))
        how += f", means of scales {scales}" + (", mirrored too" if run.opts.run.flip else "")
    past = [] if run.opts.run.test_only else history.read(run.files.history)
    rows = metrics.class_rows(scores)
    line = summary(
        scores[history.SCORE],
        history.series(past, history.SCORE)[1],
        accuracy=scores["Overall Acc"],
        loss=loss,
        images=len(run.data.val_set),
        seconds=seconds,
    )
    lines = [
        f"validation at step {step}, {how}",
        class_table(rows),
        line,
    ]
    if run.opts.run.test_only:
        lines.append(metrics.to_str(scores).strip())
    if run.opts.run.save_val_results:
        lines.append(one_line(f"results in {folder / 'results'}"))
    say("\n".join(lines))
    overall = {name: value for name, value in scores.items() if isinstance(value, float)}
    trackers.scalars(step, overall | {"validation loss": loss, "validation seconds": seconds})
    trackers.table("classes", step, rows)
    trackers.confusion(step, metrics.confusion, run.data.class_names)
    palette = run.data.val_set.facts.palette
    trackers.samples(step, selection.samples(), run.data.class_names, palette)
    if not run.opts.run.test_only:
        with tolerate_write_errors():
            save_views(folder)


def run_facts(run: Run) -> dict[str, object]:
    """When, where and on what the run began, for its record."""
    data, palette = run.data, run.data.val_set.facts.palette
    return {
        "name": run.files.name,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "resumed_at_step": run.start.step if run.start.resumes else None,
        "resume_command": options.resume_command(run.command, processes=run.world.local_size),
        "host": platform.node(),
        "device": environment.device_name(run.world.device),
        "processes": run.world.size,
        "commit": environment.commit(),
        "versions": environment.versions(),
        "num_train": data.num_train,
        "num_val": len(data.val_set),
        "class_names": data.class_names,
        "colors": [colors.hex_color(c) for c in palette[: len(data.class_names)]],
        "changed_options": options.changed(run.opts),
    }


def start_trackers(run: Run) -> Trackers:
    """History and dashboard of the main process, which makes the run's folder; else no tracker."""
    if not run.world.is_main:
        return Trackers()
    opts, trackers, past = run.opts, list[Tracker](), list[dict]()
    if not opts.run.test_only:
        resume_step = run.start.step if run.start.resumes else None
        due = run.start.saved.get("validation_due", False)
        trackers.append(History(run.files.history, resume_step=resume_step, validation_due=due))
        past = history.read(run.files.history)
        if opts.vis.tensorboard:
            trackers.append(TensorBoard(run.files.folder, resume_step=resume_step))
    facts = {"command": run.command, "run": run_facts(run), **options.flat(opts)}
    if opts.vis.enable_vis:
        trackers.append(start_dashboard(run, facts, past))
    result = Trackers(*trackers)
    result.text("options", facts)
    return result


def start_dashboard(
    run: Run, facts: Mapping[str, object], past: Sequence[Mapping[str, Any]]
) -> Dashboard:
    """The dashboard of a run, in an environment of its own unless --vis_env names one."""

    def tell_past(dashboard: Tracker) -> None:
        dashboard.text("options", facts)
        history.replay(past, dashboard)

    vis, val_set, folder = run.opts.vis, run.data.val_set, run.files.folder
    env = vis.vis_env or f"{run.files.name}_test_{datetime.now():%Y-%m-%d_%H%M%S}"
    if not run.opts.run.test_only:
        env = env_of_run(folder, given=vis.vis_env)
    shape: Sequence[int] = (3, 4)  # where the first image can't be read
    with suppress(OSError, ValueError):
        first = val_set[0]
        shape = shape if first is None else first[1].shape
    rows = SampleRows(min(4, vis.vis_num_samples, len(val_set)), tuple(shape))
    return Dashboard(env, folder=folder, port=vis.vis_port, sample_rows=rows, tell_past=tell_past)
