"""What a run shows and leaves beside its checkpoints: history, pictures, tables, the dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metrics import StreamSegMetrics
from utils import figures, options, results
from utils.history import History
from utils.history import read as read_history
from utils.progress import say
from utils.run import Run
from utils.visualizer import Trackers, Visualizer


def show_sample(
    run: Run,
    step: int,
    trackers: Trackers,
    index: int,
    image: torch.Tensor,
    target: np.ndarray,
    prediction: np.ndarray,
) -> None:
    """Save a validation image's result if asked, and show it if it is one of the samples."""
    opts, palette, name = run.opts, run.val_set.palette, run.val_set.sample_name(index)
    num_samples = min(opts.vis.vis_num_samples, len(run.val_set))
    is_sample = index in np.linspace(0, len(run.val_set) - 1, num_samples).astype(int)
    if not (is_sample or opts.run.save_val_results):
        return
    pixels = image.permute(1, 2, 0).numpy()
    if opts.run.save_val_results:
        results.save_result(
            run.files.folder / "results",
            name,
            image=pixels,
            target=target,
            prediction=prediction,
            palette=palette,
        )
    if is_sample:
        panels = [pixels, figures.colorize(target, palette), figures.colorize(prediction, palette)]
        trackers.image(name, step, figures.side_by_side(panels))


def report_validation(
    run: Run, step: int, trackers: Trackers, metrics: StreamSegMetrics, seconds: float
) -> None:
    """Print a validation's scores, and hand them to the trackers with the pictures."""
    scores, folder = metrics.get_results(), run.files.folder
    how = f"centre crops of {run.opts.data.crop_size}, not comparable with published numbers"
    lines = [
        f"validation at step {step}: {len(run.val_set)} images in {seconds:.1f} s, "
        + (how if run.opts.data.crop_val else "whole images"),
        metrics.class_table(scores) + metrics.to_str(scores),
    ]
    if run.opts.run.save_val_results:
        lines.append(f"results in {folder / 'results'}")
    say("\n".join(lines))
    overall = {name: value for name, value in scores.items() if isinstance(value, float)}
    trackers.scalars(step, overall)
    trackers.table("classes", step, class_rows(scores))
    if not run.opts.run.test_only:
        figures.save_curves(read_history(run.files.history), folder / "curves.png")
        figures.save_confusion(metrics.confusion, run.class_names, folder / "confusion.png")
        for name in ("curves", "confusion"):
            trackers.figure(name, step, folder / f"{name}.png")


def class_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The per-class scores as table rows."""
    columns = {
        "IoU": "Class IoU by name",
        "Dice": "Class Dice",
        "precision": "Class Precision",
        "recall": "Class Recall",
        "pixels": "Class Pixels",
    }
    return [
        {"class": name, **{title: scores[key][name] for title, key in columns.items()}}
        for name in scores["Class Pixels"]
    ]


def start_trackers(run: Run) -> Trackers:
    """History and dashboard of the main process; makes the run's folder. None in the others."""
    if not run.world.is_main:
        return Trackers()
    opts, files, trackers, past = run.opts, run.files, [], []
    if not opts.run.test_only:
        resuming = opts.run.continue_training
        if opts.run.overwrite:
            files.clear()
        resume_step = run.saved["cur_itrs"] if resuming else None
        trackers.append(History(files.history, resume_step=resume_step))
        past = read_history(files.history)
    if opts.vis.enable_vis:
        trackers.append(Visualizer(port=opts.vis.vis_port, env=opts.vis.vis_env, history=past))
    trackers = Trackers(*trackers)
    trackers.text("options", {"command": run.command, **options.flat(opts)})
    return trackers
