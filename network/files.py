"""Weight files and checkpoints: read, without unpickling anything that could run code."""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

State = dict[str, Tensor]
FORMAT = 1  # of our own checkpoints
CONTAINERS = ("model_state", "state_dict", "model")  # where files keep their tensors
AVERAGED = "ema_state"  # where ours keep the weights averaged over training, if they were


class _SumsDifferError(Exception):
    pass


def _numpy_globals() -> list[object]:
    """What a pickled NumPy number needs: the predecessor's checkpoints hold one (best_score)."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    return [*((scalar, name) for name in names), np.dtype, *(type(np.dtype(k)) for k in kinds)]


def read_file(path: str | Path) -> dict[str, object]:
    """Read a file of ``torch.save`` or a .safetensors one, on the CPU; nothing in it is run."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a checkpoint or weight file")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            warnings.simplefilter("ignore")  # the reader's doubts about files it then refuses
            if not _sums_match(path):
                raise _SumsDifferError
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no checkpoint makes the reader raise
        # EINVAL: a seek to where the end of a file that was cut short would lie.
        if isinstance(error, OSError) and error.errno is None:
            raise  # safetensors' own
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if found := re.search(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)", str(error)):
            raise ValueError(
                f"{path} is refused: it asks for {found[1]}, which could run code; "
                "checkpoints may hold tensors and plain values only"
            ) from None
        reason = "no checkpoint, or it is damaged or cut short"
        if isinstance(error, _SumsDifferError):
            reason = "damaged, or was saved with torch.serialization.set_crc32_options(False)"
        raise ValueError(f"{path} is {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    if "model_name" in content and content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {content.get('format')}; this version reads {FORMAT}"
        )
    return content


def _sums_match(path: Path) -> bool:
    """Whether a file of ``torch.save`` matches the check sums in it; torch.load does not look.

    Files of an old torch have none.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return True
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def has_average(content: Mapping[str, object]) -> bool:
    """Whether a file that was read holds averaged weights beside those training goes on from."""
    return bool(content.get(AVERAGED))


def state_of(content: Mapping[str, object], *, source: str, averaged: bool = True) -> State:
    """The tensors of a file that was read, by name, without the prefixes wrappers add.

    Of a checkpoint with averaged weights those, since they are what was validated; to go on
    training, ask for the others by ``averaged=False``.
    """
    containers = (AVERAGED, *CONTAINERS) if averaged and has_average(content) else CONTAINERS
    for container in containers:
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{source} holds no tensors; it is no checkpoint or weight file")
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_predecessor_file(content: Mapping[str, object]) -> bool:
    """Whether a file that was read is a checkpoint of VainF/DeepLabV3Plus-Pytorch."""
    return "model_state" in content and "model_name" not in content
