"""One line for the user on what ended a run, and the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from datasets.loader import TrainSampler, worker_death_line
from utils import distributed
from utils.bad_steps import BadStepsError
from utils.memory import is_out_of_memory
from utils.run import Run

SHOWN = 8  # file names in a message


def explain(error: BaseException, run: Run | None) -> str | None:
    """What to tell about ``error``: None where only a traceback helps, "" where another tells.

    Without a ``run`` it was still being prepared: then a ValueError or OSError is what the user
    got wrong, later it would be our mistake.
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
    """1 where the training went wrong, 2 where what it was given was."""
    return 1 if isinstance(error, FloatingPointError) else 2


@contextmanager
def with_batch(run: Run, sampler: TrainSampler) -> Iterator[None]:
    """Add to a BadStepsError which files were in that step's batch, and what to go back to."""
    try:
        yield
    except BadStepsError as error:
        names = [run.data["train"].sample_name(key.index) for key in sampler.keys(error.step)]
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        files = run.files
        good = f"last good checkpoint: {files.latest}" if files.latest.exists() else "none saved"
        raise FloatingPointError(f"{error}; its images: {shown}; {good}") from error
