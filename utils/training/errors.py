"""One line for the user on what ended a run, and the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
        return datasets.data_error_line(error)
    if isinstance(error, FloatingPointError):
        return f"{error}; lower --lr, or see --warmup_itrs and --clip_grad_norm"
    if is_out_of_memory(error):
        return (
            "out of memory; use a smaller --batch_size or --crop_size, and for validation a "
            "smaller --val_batch_size or --val_tile 769"
        )
    return worker_death_line(error)


def exit_code(error: BaseException) -> int:
    """1 if the training went wrong, 2 if what the user gave was wrong."""
    return 1 if isinstance(error, FloatingPointError) else 2


@contextmanager
def name_images_of_bad_steps(run: Run) -> Iterator[None]:
    """Add the images of the step's batch, and the last good checkpoint, to a BadStepsError."""
    try:
        yield
    except BadStepsError as error:
        names, latest = list_names(run.data.names_in_step(error.step)), run.files.latest
        good = f"the last good checkpoint is {latest}" if latest.exists() else "nothing was saved"
        raise FloatingPointError(f"{error}; its images: {names}; {good}") from error
