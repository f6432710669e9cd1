"""A run's files: where they lie, how a checkpoint is written whole, and how a run goes on from it.

A checkpoint is one dict of tensors and plain values that says everything `predict.py` and
`--continue_training` need. It keeps the predecessor's keys (``model_state``, ``optimizer_state``,
``scheduler_state``, ``cur_itrs``, ``best_score``) beside its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
# Options whose change alters what a resumed run computes; a change is reported, not refused.
REPRODUCIBLE = (
    "dataset year crop_size scale_range batch_size random_seed lr backbone_lr_mult optimizer "
    "weight_decay lr_policy step_size warmup_itrs loss_type focal_gamma focal_alpha "
    "class_weights precision total_itrs"
).split()


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

    def refuse_overwriting(self) -> None:
        """Raise ValueError if an earlier run of this name left anything here."""
        for path in (self.latest, self.best, self.folder):
            if path.exists():
                raise ValueError(
                    f"{path} exists already: go on with --continue_training, replace the earlier "
                    "run with --overwrite, or choose another --output_dir"
                )

    def clear(self) -> None:
        """Delete an earlier run of this name."""
        for path in (self.latest, self.best):
            path.unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def rng_state() -> dict[str, Any]:
    """State of the generators dropout draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set the generators to a state of :func:`rng_state`, as far as the same devices are here."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def resume(
    checkpoint: Mapping[str, Any],
    path: str,
    *,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    options: Mapping[str, Any],
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
    if "rng" in checkpoint:
        restore_rng(checkpoint["rng"])
    else:
        notes.append("no generator states in the file: data order and dropout start anew")
    then = checkpoint.get("options", {})
    for name in REPRODUCIBLE:
        if name in then and then[name] != options[name]:
            notes.append(f"--{name} was {then[name]}, is now {options[name]}")
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
