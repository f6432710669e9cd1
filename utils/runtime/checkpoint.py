"""A run's files: where they are, how a checkpoint is written, and which one is continued."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from network.pretrained import Checkpoint, RngState, value_problem
from utils.runtime.files import atomic_write, leftovers


@dataclass(frozen=True)
class RunFiles:
    """Paths of the run `<model>_<dataset>_os<N>` in `output_dir`."""

    output_dir: Path
    name: str

    @property
    def latest(self) -> Path:
        return self.output_dir / f"latest_{self.name}.pth"

    @property
    def best(self) -> Path:
        return self.output_dir / f"best_{self.name}.pth"

    @property
    def folder(self) -> Path:
        """Options, history, pictures and results."""
        return self.output_dir / self.name

    @property
    def history(self) -> Path:
        return self.folder / "history.jsonl"

    @property
    def lock(self) -> Path:
        """What the run locks; it lies outside `folder`, which may be deleted at any time."""
        return self.output_dir / f".{self.name}.lock"

    @property
    def _before_latest(self) -> Path:
        return self.output_dir / f"latest_{self.name}.1.pth"

    @property
    def earlier(self) -> list[Path]:
        """The checkpoints before `latest` that are kept, newest first."""
        return list(self._numbered().values())

    def _numbered(self) -> dict[int, Path]:
        """latest_<name>.1.pth, the one before the latest, .2 and so on, if they exist."""
        found = {}
        for path in self.output_dir.glob(f"latest_{glob.escape(self.name)}.*.pth"):
            number = path.name.removeprefix(f"latest_{self.name}.").removesuffix(".pth")
            if number.isdecimal():
                found[int(number)] = path
        return dict(sorted(found.items()))

    def _checkpoints(self) -> list[Path]:
        return [self.latest, *self.earlier, self.best]

    def owns(self, path: Path) -> bool:
        """Whether `path` is one of the run's own files, which --overwrite deletes."""
        path, folder = path.resolve(), self.folder.resolve()
        own = {checkpoint.resolve() for checkpoint in self._checkpoints()}
        return path in own or folder in path.parents

    def refuse_overwriting(self) -> None:
        """Raise ValueError if an earlier run of this name left anything here."""
        resumable = self.latest.exists() or self.earlier
        for path in (*self._checkpoints(), self.history):
            if path.exists():
                resume = "continue that run with --continue_training, " if resumable else ""
                raise ValueError(
                    f"{path} already exists: {resume}replace the earlier run with --overwrite, or "
                    "choose another --output_dir"
                )

    def delete_run(self) -> None:
        """Delete everything that an earlier run of this name left."""
        if self.folder.is_symlink():
            self.folder.unlink()
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    def delete_leftovers(self) -> None:
        """Delete what killed saves left, of checkpoints and in the run's folder."""
        for path in (self.latest, self._before_latest, self.best):
            for left in leftovers(path):
                left.unlink(missing_ok=True)
        for left in self.folder.rglob(".*.tmp"):
            left.unlink()

    def make_latest(self, start: Path) -> None:
        """Make `start`, if it is an earlier latest checkpoint, the latest.

        The newer ones are damaged and are deleted. If they stayed, they would push the good ones
        out.
        """
        earlier = self.earlier
        if start in earlier:
            os.replace(start, self.latest)
            for path in earlier[: earlier.index(start)]:
                path.unlink()

    def rotate(self, keep: int) -> None:
        """Move the latest and those before it one place back; `keep` counts the one to come.

        There is a latest at every moment, and the earlier ones are in order.
        """
        for number, path in reversed(self._numbered().items()):
            if number + 1 < keep:
                os.replace(path, path.with_name(f"latest_{self.name}.{number + 1}.pth"))
            else:
                path.unlink()
        if keep < 2 or not self.latest.exists():
            return
        try:
            os.link(self.latest, self._before_latest)
        except OSError:  # no hard links here (exFAT, some network drives)
            with open(self.latest, "rb") as source, atomic_write(self._before_latest) as copy:
                shutil.copyfileobj(source, copy)


def newest_readable(
    files: RunFiles, *, read: Callable[[Path], Checkpoint], notes: list[str]
) -> tuple[Path, Checkpoint]:
    """Path and content of the newest latest checkpoint that is whole; says what was wrong in notes.

    `read` raises ValueError or OSError for a file that it can't read or that is damaged. Raises
    FileNotFoundError if there is no checkpoint, ValueError if all are damaged.
    """
    paths = [path for path in (files.latest, *files.earlier) if path.exists()]
    if not paths:
        raise FileNotFoundError(
            f"there is no checkpoint {files.latest} to continue from: nothing was saved yet; give "
            "--ckpt FILE, or start anew without --continue_training"
        )
    problems = []
    for path in paths:
        try:
            saved = read(path)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if problems:
            step = saved.get("cur_itrs")
            notes += [*problems, f"training continues from the one before, {path}, at step {step}"]
        return path, saved
    other = files.best if files.best.exists() else "FILE"
    raise ValueError(f"{'; '.join(problems)}; give --ckpt {other}, or start anew with --overwrite")


def save(state: Checkpoint, path: Path, *, before: Callable[[], None] | None = None) -> None:
    """Write `state` so that `path` holds the old file or the new one, never half of either.

    Calls `before` when everything is on the disk, just before the new file takes its place. Raises
    OSError if the disk is full; the old file is whole then, and the run can continue.
    """
    try:
        with atomic_write(path, durable=True) as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
            if before is not None:
                before()
    except (OSError, RuntimeError) as error:
        # torch's writer hides what the system says behind an error of its own.
        failure = error if isinstance(error, OSError) else error.__context__
        reason = failure.strerror if isinstance(failure, OSError) else str(error).splitlines()[0]
        raise OSError(f"could not write {path}: {reason}") from error


def save_latest(
    state: Checkpoint, files: RunFiles, *, keep: int = 2, replaces: bool = False
) -> None:
    """As `save`; of the latest checkpoints the `keep` newest stay, this one included.

    With `replaces` it takes the place of the latest one, which is of the same step.
    """
    save(state, files.latest, before=None if replaces else lambda: files.rotate(keep))


def is_finite(state: Checkpoint) -> bool:
    """Whether weights and statistics of a checkpoint are finite; waits for the device."""
    tensors = [*state["model_state"].values(), *state.get("ema_state", {}).values()]
    # On a GPU, each question whether a value is true waits, so there is only one.
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def moments_fit(moments: Mapping[str, Any], parameter: Tensor, *, adaptive: bool) -> bool:
    """Whether these are an optimizer's moments of a parameter, or it has none of it yet.

    An `adaptive` optimizer is Adam or AdamW, any other SGD.
    """
    names = ("exp_avg", "exp_avg_sq") if adaptive else ("momentum_buffer",)
    if not moments:
        return True
    if not {"step", *names} <= moments.keys() if adaptive else moments.keys() - names:
        return False
    steps = torch.as_tensor(moments.get("step", 0.0))
    if steps.numel() != 1 or not steps.isfinite().all():
        return False
    values = [moments[name] for name in names if adaptive or moments.get(name) is not None]
    return all(
        isinstance(value, Tensor)
        and value.shape == parameter.shape
        and value_problem(value, floating=True) is None
        for value in values
    )


def rng_state() -> RngState:
    """The state of the generators that dropout draws from: the CPU's and this process's GPU's."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng(states: Sequence[RngState], rank: int) -> bool:
    """Set the generators to this process's state; returns whether that is all it draws from.

    It is not if there was no such process, or if it was on a CPU and is now on a GPU, or the other
    way round.
    """
    if rank >= len(states):
        return False
    torch.set_rng_state(states[rank]["cpu"])
    on_gpu, cuda = torch.cuda.is_initialized(), states[rank]["cuda"]
    if on_gpu and cuda:  # files of earlier versions hold the states of all GPUs
        torch.cuda.set_rng_state(cuda[min(torch.cuda.current_device(), len(cuda) - 1)])
    return on_gpu == bool(cuda)
