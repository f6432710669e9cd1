"""Finding images in folders: what counts as an image, and which folders are searched."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from PIL import Image

from datasets.files import DataError

# Pillow registers these types, too, but they are films or programs, or need a program to be read.
NO_IMAGES = {"MPEG", "HDF5", "BUFR", "GRIB", "WMF", "EPS"}


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the image types that Pillow reads, in lower case, with the dot."""
    known = Image.registered_extensions().items()
    readable = set(Image.OPEN) - NO_IMAGES
    return frozenset(suffix for suffix, kind in known if kind in readable)


def is_image(path: Path) -> bool:
    """Whether the file has the suffix of an image."""
    return path.suffix.lower() in image_suffixes()


def find_images(
    folder: Path, *, leave_out: Collection[str] = (), problems: list[str] | None = None
) -> tuple[list[Path], list[Path]]:
    """The images below `folder`, and the other visible files there; see `walk`."""
    images: list[Path] = []
    others: list[Path] = []
    for path in walk(folder, leave_out=leave_out, problems=problems):
        (images if is_image(path) else others).append(path)
    return images, others


def walk(
    folder: Path,
    *,
    leave_out: Collection[str] = (),
    problems: list[str] | None = None,
    above: tuple[str, ...] = (),
) -> Iterator[Path]:
    """Visible files below `folder`, sorted by folder; links are followed, but never in a circle.

    The folders `leave_out` are not entered; they and those around this one, `above`, are real
    paths. A folder that cannot be listed becomes a line of `problems`; without that list, it is a
    DataError.
    """
    here = os.path.realpath(folder)
    if here in above or here in leave_out:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        line = f"cannot list the folder {folder}: {error.strerror}"
        if problems is None:
            raise DataError(line) from error
        problems.append(line)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from walk(
                Path(entry.path), leave_out=leave_out, problems=problems, above=(*above, here)
            )
        else:
            yield Path(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; as a file it will be reported as missing
        return False
