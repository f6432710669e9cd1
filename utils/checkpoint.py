"""A run's files: where they lie, how a checkpoint is written whole, and how a run goes on from it.

A checkpoint is one dict of tensors and plain values that says everything `predict.py` and
`--continue_training` need. It keeps the predecessor's keys (``model_state``, ``optimizer_state``,
``scheduler_state``, ``cur_itrs``, ``best_score``) beside its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Options that change nothing a resumed run computes; a change of any other is reported.
HARMLESS = frozenset(
    "num_workers val_batch_size download list_models markdown ckpt finetune pretrained test_only "
    "continue_training output_dir overwrite save_val_results save_interval print_interval "
    "val_interval device gpu_id enable_vis vis_port vis_env vis_num_samples".split()
)


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
        return path in (self.latest.resolve(), self.best.resolve()) or folder in path.parents

    def refuse_overwriting(self) -> None:
        """Raise ValueError if an earlier run of this name left anything here."""
        for path in (self.latest, self.best, self.history):
            if path.exists():
                go_on = "go on with --continue_training, " if self.latest.exists() else ""
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
        for path in (self.latest, self.best):
            path.unlink(missing_ok=True)


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` so that ``path`` holds the old file or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # torch's writer hides what the system said
            raise OSError(f"could not write {path}, is the disk full? ({error})") from error
        raise
    if os.name == "posix":  # the new name itself must survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


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
    options: Mapping[str, Any],
    rank: int = 0,
) -> list[str]:
    """Put the training state of ``checkpoint`` in place; return lines on what differs from then.

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
    then = checkpoint.get("options", {})
    for name in options.keys() - HARMLESS:
        if name in then and then[name] != options[name]:
            notes.append(f"--{name} was {then[name]}, is now {options[name]}")
    notes.sort()
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
            "give the --optimizer it was trained with, or leave out --continue_training"
        )
    groups = [{**new, "params": old["params"]} for new, old in zip(now, then, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
