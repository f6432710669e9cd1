"""Archives from the web: checked by checksum, and unpacked into one folder and nowhere else."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url

from datasets.files import DataError


def download_and_unpack(
    url: str, root: Path, *, md5: str, member: Path, target: Path, last: Sequence[str]
) -> None:
    """Fetch a tar archive into `root` and put what its folder `member` holds into `target`.

    An archive that is in `root` already, with that checksum, is not fetched again. Nothing is ever
    half there under its name; the entries `last` of `member`, by which a complete folder is known,
    come after all others. Raises FileNotFoundError, and DataError for what the archive holds.
    """
    archive = root / url.rsplit("/", 1)[-1]
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(
            f"this Python can't unpack {archive.name} safely; use Python 3.11.4 or later, or "
            f"unpack the folder {member} of {url} by hand to {target}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not check_integrity(archive, md5):
            _fetch(url, archive, md5=md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise FileNotFoundError(
            f"could not download {url}: {_one_line(error)}; try again, or fetch it by hand and "
            f"put it in {root}"
        ) from error
    try:
        unpack(archive, member=member, target=target, last=last)
    except OSError as error:
        raise FileNotFoundError(
            f"could not unpack {archive} to {target}: {_one_line(error)}; it takes "
            "as much space again as the archive"
        ) from error


def unpack(archive: Path, *, member: Path, target: Path, last: Sequence[str]) -> None:
    """Put what the folder `member` of a tar archive holds into `target`, entries `last` at the end.

    It is unpacked beside the archive first, so a bad archive leaves nothing. Raises DataError for
    an archive that is damaged, has no such folder, or holds anything but files and folders in it.
    """
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=archive.parent) as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter=_files_and_folders)
        except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
            raise DataError(
                f"refused to unpack {archive}: {_one_line(error)}; delete it and fetch it again"
            ) from error
        unpacked = Path(temporary) / member
        if not unpacked.is_dir():
            raise DataError(f"{archive} holds no folder {member}; delete it and fetch it again")
        _move_into(unpacked, target, last=last)


def _fetch(url: str, archive: Path, *, md5: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".download-", dir=archive.parent) as temporary:
        download_url(url, temporary, filename=archive.name)
        fetched = Path(temporary) / archive.name
        if not check_integrity(fetched, md5):
            size = fetched.stat().st_size
            raise RuntimeError(f"the {size} bytes that came do not have the MD5 {md5}")
        os.replace(fetched, archive)


def _files_and_folders(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """What tarfile's own filter allows, less all links: Pythons of before June 2025 let some out.

    (CVE-2025-4517 and its relatives; the archives of data sets have no links.)
    """
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)


def _move_into(source: Path, target: Path, *, last: Sequence[str]) -> None:
    """Move the entries of a folder into another, which may hold some of them."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir(), key=lambda path: (path.name in last, path.name)):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move_into(entry, place, last=())
        else:
            shutil.move(entry, place)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
