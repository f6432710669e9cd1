"""Fetches published weights by name once; later they come from the cache.

timm's hub repositories come through `huggingface_hub`, whose cache, HF_HUB_OFFLINE and HF_ENDPOINT
work as usual; torchvision's files lie in the folder of `torch.hub` (TORCH_HOME). Each time, the
file is compared with the hash that its source states, so half a file is never used.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..backbone import Weights

PERMISSIVE = frozenset({"apache-2.0", "bsd-3-clause", "mit"})
# Seconds without an answer after which a server counts as unreachable; huggingface_hub alone
# would try six times.
PATIENCE = 5


class DamagedFileError(ValueError):
    """A file has another hash than its source states; it was deleted."""


def describe(weights: Weights) -> str:
    """The repository, `timm/hrnet_w48.ms_in1k`, or the file of a URL, `resnet18-f37072fd.pth`."""
    return weights.source if weights.file else weights.source.rsplit("/", 1)[-1]


def fetch(weights: Weights, name: str) -> Path:
    """The weight file of backbone `name`, downloaded unless it is in the cache.

    Without a network, or after a damaged download, a FileNotFoundError says what to do.
    """
    get = _from_hub if weights.file else _from_url
    try:
        try:
            return get(weights)
        except DamagedFileError:  # perhaps only in the cache; it is deleted now
            return get(weights)
    except Exception as error:  # libraries raise their own kinds, which differ between versions
        raise FileNotFoundError(
            f"no ImageNet weights for {name}: {describe(weights)} is not in the cache and "
            f"{_reason(error)}; on a machine with a network, fetch it by `{_command(weights)}` and "
            "give it as --pretrained FILE; or start from random weights: --pretrained none"
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong, as a part of a sentence."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"its server answers {status}"
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"could not be fetched ({first_line or type(error).__name__})"


def _command(weights: Weights) -> str:
    """A command that fetches the file into the current folder, on any machine."""
    if not weights.file:
        return f"curl -LO {weights.url}"
    return f"hf download {weights.source} {weights.file} --local-dir ."


def _from_hub(weights: Weights) -> Path:
    """A file of a hub repository."""
    import huggingface_hub  # takes a second, and few runs need it
    from huggingface_hub.utils import logging as hub_logging

    # It logs every attempt; our error has what matters of them.
    hub_logging.set_verbosity_error()
    path = huggingface_hub.try_to_load_from_cache(weights.source, weights.file)
    if not isinstance(path, str):  # None, or a mark that says "no such file"
        url = huggingface_hub.hf_hub_url(weights.source, weights.file)
        asked = os.environ.get("HF_HUB_ETAG_TIMEOUT")
        huggingface_hub.get_hf_file_metadata(url, timeout=float(asked or PATIENCE))
        print(f"fetching {weights.source}/{weights.file}", flush=True)
        path = huggingface_hub.hf_hub_download(weights.source, weights.file)
    blob = Path(path).resolve()
    # The cache names large files by their SHA-256, but only on file systems with links.
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        _check(blob, blob.name)
    return Path(path)


def _from_url(weights: Weights) -> Path:
    """A file whose name ends in the first digits of its SHA-256, as with torchvision."""
    url = weights.url
    folder = Path(torch.hub.get_dir(), "checkpoints")
    path = folder / describe(weights)
    digits = path.stem.rsplit("-", 1)[-1]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching {url} to {path}", flush=True)
        with _socket_timeout(2 * PATIENCE):  # without this it would wait forever
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    _check(path, digits)
    return path


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Give up connections made inside when nothing arrives for so long."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check(path: Path, digits: str) -> None:
    """Delete a file whose SHA-256 does not begin with `digits`, and raise DamagedFileError."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(digits):
        path.unlink()
        raise DamagedFileError(
            "the file was damaged and is deleted: "
            f"its SHA-256 is {found[:8]}..., not {digits[:8]}..."
        )
