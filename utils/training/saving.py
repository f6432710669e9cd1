"""What a run writes to go on from, and what it deletes before."""

from __future__ import annotations

from utils.runtime import checkpoint
from utils.runtime.console import one_line, say
from utils.training.run import Run
from utils.training.step import TrainingState


def save(
    run: Run, state: TrainingState, *, is_last: bool, is_best: bool = False, replaces: bool = False
) -> bool:
    """Write the latest checkpoint, and before it the best one if this is the best.

    All processes must call it; the main one is told whether it worked. If the disk is full, this
    checkpoint is lost and training goes on, unless it is the last one.
    """
    rng_states = run.world.gather(checkpoint.rng_state())
    if not run.world.is_main:
        return False
    content = run.checkpoint(state, rng_states)
    if not checkpoint.is_finite(content):
        text = f"the weights are NaN or infinite at step {state.step}"
        if is_last:
            raise FloatingPointError(f"{text}: not saved; the earlier checkpoints stay")
        say(f"not saved: {text}")
        return False
    try:
        if is_best:
            checkpoint.save(content, run.files.best)
        keep = run.opts.run.keep_checkpoints
        checkpoint.save_latest(content, run.files, keep=keep, replaces=replaces)
    except OSError as error:
        if is_last:
            raise
        text = f"not saved: {error}; the earlier checkpoints are whole, and training goes on"
        say(one_line(text))
        return False
    return True


def delete_what_is_replaced(run: Run) -> None:
    """Delete the earlier run that --overwrite replaces, and what killed saves left."""
    if run.opts.run.overwrite:
        run.files.delete_run()
    run.files.delete_leftovers()
    if run.start.ckpt is not None:
        run.files.make_latest(run.start.ckpt)
