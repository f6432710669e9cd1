"""Reads weight files and checkpoints without unpickling anything that could run code."""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch

from .checkpoint import Checkpoint
from .contents import tensor_groups
from .definition import check


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
    A file without tensors is a ValueError, and so is a checkpoint whose values can't be right.
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
    if not tensor_groups(content):
        raise ValueError(f"{path} holds no tensors; it is not a checkpoint or weight file")
    check(content, source=str(path))
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
