"""--class_weights: the weight of each class in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datasets import check
from utils import options
from utils.runtime.distributed import World
from utils.training.data import RunData
from utils.training.start import StartPoint


def class_weights(
    opts: options.Options, data: RunData, *, start: StartPoint, world: World
) -> Tensor | None:
    """The loss weights (C,) of --class_weights, or None."""
    if opts.optim.class_weights != "auto":
        return read_class_weights(opts.optim.class_weights, data.class_names)
    train_set = data.train_set
    if train_set is None:  # --test_only: the weights of the training, if they are known
        trained_with = start.saved.get("class_weights")
        return None if trained_with is None else torch.tensor(trained_with)
    weights, notes = world.main_first(
        lambda: check.class_weights(
            train_set,
            kept_in=Path(opts.data.data_root),
            num_workers=data.num_workers,
            progress=world.is_main,
            skip_bad_files=opts.data.skip_bad_files,
        )
    )
    start.notes.extend(notes)
    unused = len(data.class_names) - len(weights)
    return torch.cat([torch.from_numpy(weights), torch.zeros(unused)])


def read_class_weights(path: str, class_names: Sequence[str]) -> Tensor | None:
    """Class weights (C,) from a file with one line `weight  class name` per class; None for "none".

    The rest of a line after # is a comment. Every class needs a line, except those called
    "unused N", whose weight is 0.
    """
    if path == "none":
        return None
    weights: dict[str, float] = {name: 0.0 for name in class_names if name.startswith("unused ")}
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--class_weights {path}: the file does not exist; give a file, auto or none"
        )
    for line in Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines():
        words = line.split("#")[0].split(maxsplit=1)
        if not words:
            continue
        name = words[-1].strip()
        if len(words) != 2 or name not in class_names:
            raise ValueError(
                f"{path}: the line {line!r} must be `weight  class name`; "
                f"the classes are {', '.join(class_names)}"
            )
        try:
            weights[name] = float(words[0])
        except ValueError:
            raise ValueError(f"{path}: {words[0]!r} in {line!r} is not a number") from None
    missing = [name for name in class_names if name not in weights]
    if missing:
        raise ValueError(f"{path}: no weight for {', '.join(missing)}; every class needs a line")
    if not any(weights.values()):
        raise ValueError(f"{path}: every weight is 0, so nothing would be learned")
    return torch.tensor([weights[name] for name in class_names])
