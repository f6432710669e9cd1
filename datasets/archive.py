"""Archives from the web: checked by their checksum, and unpacked into one folder and no other."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from datasets.files import DataError

MAX_DEPTH = 64  # of folders in an archive; unpacking deep ones could end in a RecursionError


def download_extract(url: str, root: str | Path, filename: str, md5: str) -> None:
    """Fetch a tar archive into `root` as `filename` and unpack it there; the predecessor's."""
    archive = Path(root) / filename
    download_and_unpack(url, archive, md5=md5, member=Path(), target=archive.parent, last=())


def download_and_unpack(
    url: str, archive: Path, *, md5: str, member: Path, target: Path, last: Sequence[str]
) -> None:
    """Fetch the tar file `archive` and move what its folder `member` holds into `target`.

    If it exists and has this checksum, it is not fetched again. The entries `last`, by which a
    complete folder is known, are moved after all others. Raises FileNotFoundError for a failure of
    the network or the disk, DataError for a bad archive.
    """
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(
            f"this Python cannot unpack {archive.name} safely; use Python 3.11.4 or later, or "
            f"unpack the folder {member} of {url} by hand to {target}"
        )
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, archive, md5=md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise FileNotFoundError(
            f"could not download {url}: {_one_line(error)}; try again, or fetch it by hand and "
            f"put it in {archive.parent}"
        ) from error
    try:
        _unpack(archive, member=member, target=target, last=last)
    except OSError as error:
        raise FileNotFoundError(
            f"could not unpack {archive} to {target}: {_one_line(error)}; unpacking takes as much "
            "space as the archive itself"
        ) from error


def _fetch(url: str, archive: Path, *, md5: str) -> None:
    from torchvision.datasets.utils import check_integrity, download_url  # takes a second

    if check_integrity(archive, md5):
        return
    archive.unlink(missing_ok=True)
    download_url(url, archive.parent, filename=archive.name)
    if not check_integrity(archive, md5):
        size = archive.stat().st_size
        archive.unlink()
        raise RuntimeError(f"the {size} bytes that arrived do not have the MD5 {md5}")


def _unpack(archive: Path, *, member: Path, target: Path, last: Sequence[str]) -> None:
    # Beside the archive first, so that a bad archive leaves nothing.
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=archive.parent) as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter=_safe)
        except (tarfile.TarError, EOFError, zlib.error, ValueError, RecursionError) as error:
            raise DataError(
                f"refused to unpack {archive}: {_one_line(error)}; delete it and fetch it again"
            ) from error
        unpacked = Path(temporary) / member
        if not unpacked.is_dir():
            raise DataError(f"{archive} holds no folder {member}; delete it and fetch it again")
        for later in (shutil.ignore_patterns(*last), None):
            shutil.copytree(
                unpacked, target, ignore=later, copy_function=shutil.move, dirs_exist_ok=True
            )


def _safe(entry: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """The entry; a TarError or ValueError if it would be outside the folder, or too deep in it."""
    if entry.name.count("/") > MAX_DEPTH:
        raise ValueError(f"{entry.name[:40]}... is in more than {MAX_DEPTH} folders")
    return tarfile.data_filter(entry, folder)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
