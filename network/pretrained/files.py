"""Reads weight files and checkpoints without unpickling anything that could run code."""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .checkpoint import FORMAT, Checkpoint, State

CONTAINERS = ("model_state", "state_dict", "model")  # keys under which files keep their tensors


class _ChecksumError(Exception):
    pass


def _numpy_globals() -> list[Any]:
    """What a pickled NumPy number needs: `best_score` of the predecessor's checkpoints is one."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    return [*((scalar, name) for name in names), np.dtype, *(type(np.dtype(k)) for k in kinds)]


def read_file(path: str | Path) -> Checkpoint:
    """Read a file of `torch.save` or a .safetensors file to the CPU; no code in it is run.

    A file that is no checkpoint is read too: it lacks the keys, and `state_of` finds its tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a checkpoint or weight file")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        content = _content_of(path)
    except Exception as error:  # a file that is no checkpoint can make the reader raise anything
        if isinstance(error, OSError) and error.errno is None:
            raise  # by safetensors: its message is clear
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path} {_reason(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    if "model_name" in content and content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {content.get('format')}; this version reads {FORMAT}"
        )
    if "model_name" in content and "build_args" not in content:
        raise ValueError(f"{path} says which model it holds, but not how to build it")
    return cast(Checkpoint, content)


def _content_of(path: Path) -> object:
    """What the file holds, whatever that is."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
        warnings.simplefilter("ignore")  # the reader warns of files that it then refuses
        if not _checksums_match(path):
            raise _ChecksumError
        return torch.load(path, map_location="cpu", weights_only=True)


def _checksums_match(path: Path) -> bool:
    """Whether a file of `torch.save` matches the checksums in it, which `torch.load` ignores.

    Files of an old torch have none.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return True
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def _reason(error: Exception) -> str:
    """Why a file can't be read: words that follow its name. EINVAL too means a cut-short file."""
    if isinstance(error, _ChecksumError):
        return "is damaged, or was saved with torch.serialization.set_crc32_options(False)"
    if found := re.search(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)", str(error)):
        return (
            f"is refused: it asks for {found[1]}, which could run code; "
            "checkpoints may hold tensors and plain values only"
        )
    return "is not a checkpoint, or it is damaged or cut short"


def has_average(content: Checkpoint) -> bool:
    """Whether a checkpoint holds averaged weights beside those that training goes on from."""
    return bool(content.get("ema_state"))


def state_of(content: Checkpoint, *, source: str, averaged: bool = True) -> State:
    """The tensors of a file that was read, by name, without the prefixes that wrappers add.

    Averaged weights, if the file has them, since those were validated. To go on training, ask for
    the others by `averaged=False`.
    """
    found: Mapping[str, object] = content
    if averaged and has_average(content):
        found = content["ema_state"]
    else:
        for container in CONTAINERS:
            inner = content.get(container)
            if isinstance(inner, Mapping):
                found = inner
                break
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{source} holds no tensors; it is not a checkpoint or weight file")
    return {key.removeprefix("module."): value for key, value in state.items()}


def is_predecessor_file(content: Checkpoint) -> bool:
    """Whether a file that was read is a checkpoint of VainF/DeepLabV3Plus-Pytorch."""
    return "model_state" in content and "model_name" not in content
