"""A run's files: where they lie, how a checkpoint is written whole, and how a run goes on from it.

A checkpoint is one dict of tensors and plain values that says everything `predict.py` and
`--continue_training` need. It keeps the predecessor's keys (``model_state``, ``optimizer_state``,
``scheduler_state``, ``cur_itrs``, ``best_score``) beside its own.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class RunFiles:
    """Paths of the run ``<model>_<dataset>_os<N>`` in ``output_dir``."""

    output_dir: Path
    name: str

    @property
    def latest(self) -> Path:
        return self.output_dir / f"latest_{self.name}.pth"

    @property
    def best(self) -> Path:
        return self.output_dir / f"best_{self.name}.pth"

    def _numbered(self) -> dict[int, Path]:
        """latest_<name>.1.pth, the one before the latest, .2, .. as far as they are there."""
        found = {}
        for path in self.output_dir.glob(f"latest_{glob.escape(self.name)}.*.pth"):
            number = path.name.removeprefix(f"latest_{self.name}.").removesuffix(".pth")
            if number.isdecimal():
                found[int(number)] = path
        return dict(sorted(found.items()))

    @property
    def earlier(self) -> list[Path]:
        """The checkpoints before :attr:`latest` that are kept, newest first."""
        return list(self._numbered().values())

    def _checkpoints(self) -> list[Path]:
        return [self.latest, *self.earlier, self.best]

    def _temporaries(self) -> list[Path]:
        """What a save left that was killed."""
        return [_temporary(path) for path in (self.latest, self.best)]

    @property
    def folder(self) -> Path:
        """Options, history, pictures and results."""
        return self.output_dir / self.name

    @property
    def history(self) -> Path:
        """The JSONL record in the folder."""
        return self.folder / "history.jsonl"

    def owns(self, path: str | Path) -> bool:
        """Whether ``path`` is one of the run's own files, which --overwrite deletes."""
        path, folder = Path(path).resolve(), self.folder.resolve()
        own = {checkpoint.resolve() for checkpoint in self._checkpoints()}
        return path in own or folder in path.parents

    def refuse_overwriting(self) -> None:
        """Raise ValueError if an earlier run of this name left anything here."""
        going_on = self.latest.exists() or self.earlier
        for path in (*self._checkpoints(), self.history):
            if path.exists():
                go_on = "go on with --continue_training, " if going_on else ""
                raise ValueError(
                    f"{path} exists already: {go_on}replace the earlier run with --overwrite, or "
                    "choose another --output_dir"
                )

    def clear(self) -> None:
        """Delete an earlier run of this name."""
        if self.folder.is_symlink():
            self.folder.unlink()
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        for path in (*self._checkpoints(), *self._temporaries()):
            path.unlink(missing_ok=True)

    def tidy(self, start: str | Path | None = None) -> None:
        """Remove what a killed save left, and make ``start``, an earlier latest, the latest.

        The damaged files that are newer than it go: kept, they would push the good ones out.
        """
        for path in self._temporaries():
            path.unlink(missing_ok=True)
        earlier = self.earlier
        if start is not None and Path(start) in earlier:
            os.replace(start, self.latest)
            for path in earlier[: earlier.index(Path(start))]:
                path.unlink()

    def rotate(self, keep: int) -> None:
        """Put the latest and those before it one place back; ``keep`` counts the one to come.

        At every moment there is a latest, and the earlier ones are in their order.
        """
        for number, path in reversed(self._numbered().items()):
            if number + 1 < keep:
                os.replace(path, path.with_name(f"latest_{self.name}.{number + 1}.pth"))
            else:
                path.unlink()
        if keep < 2 or not self.latest.exists():
            return
        first = self.latest.with_name(f"latest_{self.name}.1.pth")
        try:
            os.link(self.latest, first)
        except OSError:  # no hard links here (exFAT, some network drives)
            shutil.copyfile(self.latest, _temporary(first))
            os.replace(_temporary(first), first)


def newest_readable(
    files: RunFiles, *, read: Callable[[Path], dict[str, Any]]
) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest latest checkpoint that is whole: its path, its content, and what to say.

    ``read`` raises ValueError or OSError for a file it can't read or that a byte has changed in.
    Raises FileNotFoundError if there is none at all, ValueError if all are damaged.
    """
    paths = [path for path in (files.latest, *files.earlier) if path.exists()]
    if not paths:
        raise FileNotFoundError(
            f"no checkpoint {files.latest} to continue from: nothing was saved there yet; "
            "give --ckpt FILE, or start anew without --continue_training"
        )
    notes = []
    for path in paths:
        try:
            saved = read(path)
        except (ValueError, OSError) as error:
            notes.append(str(error))
            continue
        if notes:
            notes.append(f"going on from the one before, {path}, at step {saved.get('cur_itrs')}")
        return path, saved, notes
    other = files.best if files.best.exists() else "FILE"
    raise ValueError(f"{'; '.join(notes)}; give --ckpt {other}, or start anew with --overwrite")


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` so that ``path`` holds the old file or the new one, never half of either.

    Raises OSError, with the old file whole, where the disk is full: the run can go on.
    """
    _replace(state, path, before=lambda: None)


def save_latest(state: Mapping[str, Any], files: RunFiles, *, keep: int = 2) -> None:
    """As :func:`save`; of the latest checkpoints the ``keep`` newest stay, this one included."""
    _replace(state, files.latest, before=lambda: files.rotate(keep))


def _replace(state: Mapping[str, Any], path: Path, *, before: Callable[[], None]) -> None:
    """Write beside ``path``; when all is on the disk, call ``before`` and put it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        before()
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # torch's writer hides what the system said
            raise OSError(f"could not write {path}, is the disk full? ({error})") from error
        raise
    if os.name == "posix":  # the new name itself must survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):  # some network drives can't; the file is in place
            os.fsync(folder)
        os.close(folder)


def is_finite(state: Mapping[str, Any]) -> bool:
    """Whether weights and statistics of a checkpoint are numbers; waits for the device."""
    tensors = [*state["model_state"].values(), *state.get("ema_state", {}).values()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def rng_state() -> dict[str, Any]:
    """State of the generators dropout draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng(states: Sequence[Mapping[str, Any]], rank: int) -> bool:
    """Set the generators to this process's state, as far as the same devices are here.

    False, and nothing done, if there was no such process.
    """
    if rank >= len(states):
        return False
    state = states[rank]
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    return True


def resume(
    checkpoint: Mapping[str, Any],
    path: str,
    *,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    changed_options: Sequence[str],
    rank: int = 0,
) -> list[str]:
    """Put the training state of ``checkpoint`` in place; return lines on what differs from then.

    ``changed_options`` are the lines on options.

    Raises ValueError if the file holds no training state, or that of another optimizer.
    """
    missing = {"optimizer_state", "scheduler_state", "cur_itrs"} - set(checkpoint)
    if missing:
        raise ValueError(
            f"{path}: holds no {' and no '.join(sorted(missing))}, so training can't continue from "
            "it; leave out --continue_training to start from its weights"
        )
    _load_optimizer(optimizer, checkpoint["optimizer_state"], path)
    # The step counts, not the stored position: the predecessor saved before its scheduler's step.
    scheduler.load_state_dict(
        {**checkpoint["scheduler_state"], "last_epoch": checkpoint["cur_itrs"]}
    )
    notes = []
    if not restore_rng(checkpoint.get("rng", ()), rank):
        notes.append("no generator state in the file for this process: dropout starts anew")
    notes += changed_options
    threads = checkpoint.get("num_threads", torch.get_num_threads())
    if threads != torch.get_num_threads():
        notes.append(
            f"it ran with {threads} threads, now {torch.get_num_threads()}: sums round differently"
        )
    return notes


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], path: str) -> None:
    """Load moments and buffers; the settings (weight decay, ...) stay those asked for now."""
    now, then = optimizer.state_dict()["param_groups"], state["param_groups"]
    same_sizes = [len(group["params"]) for group in now] == [len(g["params"]) for g in then]
    if not same_sizes or ("betas" in now[0]) != ("betas" in then[0]):
        raise ValueError(
            f"{path}: its optimizer state does not suit {type(optimizer).__name__} here; "
            "give the --optimizer, --no_decay_norm_bias and --aux_loss it was trained with, or "
            "leave out --continue_training"
        )
    groups = [{**new, "params": old["params"]} for new, old in zip(now, then, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
