"""One line for the user on what ended a run."""

from __future__ import annotations

import datasets
from datasets.loader import worker_death_line
from utils.runtime import distributed
from utils.runtime.console import list_names
from utils.runtime.memory import is_out_of_memory
from utils.training.run import Run
from utils.training.step import BadStepsError


def explain(error: BaseException, run: Run | None) -> str | None:
    """The line that tells the user about `error`; None where only a traceback helps.

    The line is empty if another process tells it. Without a `run`, the run was still being
    prepared: a ValueError or OSError is then a mistake in what the user gave; later it would be
    ours.
    """
    if distributed.is_peer_failure(error):
        return "another process of this run ended; its own message says why"
    if run is None and isinstance(error, ValueError | OSError):
        return str(error) if distributed.speaks(error) else ""
    if isinstance(error, datasets.DataError | OSError):
        return datasets.data_error_line(error) + _way_on(run)
    if isinstance(error, FloatingPointError):
        line = str(error)
        if run is not None and isinstance(error, BadStepsError):
            names, latest = list_names(run.data.names_in_step(error.step)), run.files.latest
            saved = f"the last good checkpoint is {latest}"
            line += f"; its images: {names}; {saved if latest.exists() else 'nothing was saved'}"
        return f"{line}; lower --lr, or see --warmup_itrs and --clip_grad_norm"
    if death := worker_death_line(error):  # it may guess that memory ran out
        return death
    if is_out_of_memory(error):
        return (
            "out of memory; use a smaller --batch_size or --crop_size, and for validation a "
            f"smaller --val_batch_size or --val_tile 769{_way_on(run)}"
        )
    return None


def _way_on(run: Run | None) -> str:
    if run is None or run.opts.run.test_only or not run.files.latest.exists():
        return ""
    return "; then continue with --continue_training"
