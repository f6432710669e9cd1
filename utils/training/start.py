"""Where a run starts: its files, and the checkpoint it continues from or takes its weights from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import network
from network.pretrained import Checkpoint
from utils import options
from utils.runtime import checkpoint
from utils.runtime.distributed import World
from utils.runtime.lock import RunLock
from utils.visualizer import history


@dataclass(frozen=True)
class StartPoint:
    """What is known before any data is read or any network built."""

    files: checkpoint.RunFiles
    output_stride: int
    ckpt: Path | None  # the checkpoint's file, if the run starts from one
    saved: Checkpoint  # its content, else empty
    resumes: bool  # the run continues at the checkpoint's step, as --continue_training asks
    notes: list[str]  # what the user should know, one line each; everybody who prepares a run adds

    @property
    def step(self) -> int:
        """The step at which training continues; 0 for a new training."""
        return self.saved["cur_itrs"] if self.resumes else 0


def find_start(opts: options.Options, *, world: World, lock: RunLock | None) -> StartPoint:
    """Find the run's files, lock them, and read the checkpoint it starts from.

    Raises ValueError if another process has locked the files, or if the run would overwrite an
    earlier run unasked, or the checkpoint itself.
    """
    run, notes = opts.run, list[str]()
    ckpt = Path(opts.model.ckpt) if opts.model.ckpt else None
    saved = network.pretrained.read_file(ckpt) if ckpt else Checkpoint()
    asked = opts.model.output_stride
    if saved and asked is None and saved.get("model_name", opts.model.model) == opts.model.model:
        asked = network.pretrained.output_stride_of(saved)
    stride = network.resolve_output_stride(opts.model.model, asked)
    name = f"{opts.model.model}_{opts.data.dataset}_os{stride}"
    files = checkpoint.RunFiles(Path(run.output_dir), name)
    resumes = run.continue_training and not run.test_only
    if not run.test_only:
        # Before anything is read that another run might change.
        note = world.main_first(
            lambda: lock.acquire(files.lock) if lock is not None and world.is_main else None
        )
        notes += [note] if note else []
        if resumes and ckpt is None:
            read = network.pretrained.read_file
            ckpt, saved = checkpoint.newest_readable(files, read=read, notes=notes)
        _refuse_overwriting(opts, files, ckpt)
    return StartPoint(files, stride, ckpt, saved, resumes, notes)


def _refuse_overwriting(
    opts: options.Options, files: checkpoint.RunFiles, ckpt: Path | None
) -> None:
    run = opts.run
    is_own = ckpt is not None and files.owns(ckpt)
    if run.overwrite and is_own:
        raise ValueError(f"--overwrite would delete {ckpt}, which the run starts from")
    if run.continue_training and is_own:
        history.read(files.history)  # a damaged history is an error now, not in the middle of a run
    elif not run.overwrite:
        files.refuse_overwriting()
