"""Which images to predict, and where the files of each go."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.image_finder import find_images, is_image
from utils.runtime.console import list_names

# What Linux and macOS allow; a file is written under a longer, hidden name in the same folder.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096 - 64


@dataclass
class Sources:
    """The images of `--input`, and what else was found there."""

    images: dict[Path, Path] = field(default_factory=dict)  # by place below the folder of all
    others: list[Path] = field(default_factory=list)  # files that do not look like images
    problems: list[str] = field(default_factory=list)  # a line for each folder that can't be read


@dataclass(frozen=True)
class Job:
    """An image, its place below the folder that all inputs share, and the files to write."""

    image: Path
    place: Path
    files: Mapping[str, Path]  # by the kind of output


def find_sources(inputs: Sequence[str], *, outputs: Sequence[Path]) -> Sources:
    """The images that `inputs` name: files, folders and patterns, each image once.

    In folders, the folders `outputs` are left out. An input that does not exist is a
    FileNotFoundError, and one that is also an output a ValueError.
    """
    written = {os.path.realpath(folder) for folder in outputs}
    found, paths, folders = Sources(), list[Path](), list[Path]()
    for path in (path for text in inputs for path in _matches(text)):
        folders.append(path if path.is_dir() else path.parent)
        if path.is_dir():
            if os.path.realpath(path) in written:
                raise ValueError(f"--output {path} is the input folder; choose another")
            images, others = find_images(path, leave_out=written, problems=found.problems)
            found.others += others
            paths += images
        else:
            paths.append(path)
    if not paths and not found.problems:
        raise ValueError(
            f"no image in {list_names(inputs)}: {len(found.others)} files there, none with an "
            "image's suffix"
        )
    top = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    found.images = {Path(os.path.relpath(os.path.abspath(path), top)): path for path in paths}
    return found


def _matches(text: str) -> Iterator[Path]:
    """The file or folder of that name; else the folders and images that match the pattern."""
    if os.path.lexists(text):
        yield Path(text)
        return
    found = [Path(path) for path in sorted(glob.glob(text, recursive=True))]
    chosen = [path for path in found if path.is_dir() or is_image(path)]
    if not chosen:
        reason = "matches no image" if glob.has_magic(text) else "does not exist"
        raise FileNotFoundError(f"--input {text} {reason}")
    yield from chosen


def plan(sources: Sources, kinds: Mapping[str, tuple[Path, str]]) -> tuple[list[Job], list[str]]:
    """The files of each image, and a line for each image that can't have them.

    `kinds` has the folder and the ending of each kind of output. A file has the place and the name
    of its image; images whose names differ only in the suffix keep it: a.jpg gives a.jpg.png.
    """
    # Names are compared without case, as some file systems do.
    stems = Counter(str(place.with_suffix("")).casefold() for place in sources.images)
    jobs, problems = list[Job](), list[str]()
    taken: set[str] = set()
    for place, image in sources.images.items():
        shared = stems[str(place.with_suffix("")).casefold()] > 1
        stem = place.name if shared else place.stem
        while True:
            files = {
                kind: folder / place.with_name(stem + ending)
                for kind, (folder, ending) in kinds.items()
            }
            if taken.isdisjoint(str(path).casefold() for path in files.values()):
                break
            stem += ".png"
        if long := [path for path in files.values() if _is_too_long(path)]:
            problems.append(
                f"{image}: {long[0].name} is too long for a file's name; rename the image"
            )
            continue
        taken.update(str(path).casefold() for path in files.values())
        jobs.append(Job(image, place, files))
    return jobs, problems


def _is_too_long(path: Path) -> bool:
    return len(os.fsencode(path.name)) > MAX_NAME_BYTES or len(os.fsencode(path)) > MAX_PATH_BYTES


def check_files(
    jobs: Sequence[Job], images: Iterable[Path], *, extra: Sequence[Path], replace: bool
) -> None:
    """Raise ValueError if an input, or without `replace` any other file, would be overwritten.

    `extra` are files over all images.
    """
    inputs = {os.path.realpath(image) for image in images}
    written = [path for job in jobs for path in job.files.values()] + list(extra)
    existing = [path for path in written if os.path.lexists(path)]
    if replace:
        existing = [path for path in existing if os.path.realpath(path) in inputs]
    if existing:
        names = list_names([str(path) for path in existing], shown=3)
        raise ValueError(f"files would be overwritten: {names}; choose another --output")


def missing_only(jobs: Sequence[Job]) -> list[Job]:
    """The jobs without the files that exist; those that have all files are left out."""
    left = [
        Job(job.image, job.place, {k: path for k, path in job.files.items() if not path.exists()})
        for job in jobs
    ]
    return [job for job in left if job.files]
