"""Images by sample name, their labels, and which of them validate."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from datasets.files import DataError
from datasets.image_finder import find_images

SPLITS = ("train", "val", "test")


def list_images(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """The images below `folder` by sample name, and the other files.

    A name is the relative path without suffix, with `/` between folders, in Unicode's composed
    form, which archives made on macOS do not have.
    """
    images: dict[str, Path] = {}
    found, others = find_images(folder)
    for path in found:
        name = normalized(path.relative_to(folder).with_suffix("").as_posix())
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the file name {str(path)!a} is not UTF-8; rename the file") from error
        if name in images:
            raise DataError(f"{images[name]} and {path} have the same name, {name!r}; keep one")
        images[name] = path
    return images, others


def normalized(name: str) -> str:
    """The name in Unicode's composed form."""
    return unicodedata.normalize("NFC", name)


def find_labels(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    *,
    place: Path,
    allow_missing: bool = False,
) -> dict[str, Path]:
    """The label of each image: it has the name of the image, perhaps with a common ending.

    `place` is the folder of the labels, for errors. Images without a label are an error or, with
    `allow_missing` and at least one label, get the path `NAME.*`, which cannot be read.
    """
    ending = _common_ending(images, labels, place)
    missing = [name for name in images if name + ending not in labels]
    wanted = {name: place / f"{name}{ending}.*" for name in missing}
    if missing and not (allow_missing and len(missing) < len(images)):
        num_over = len(labels) - (len(images) - len(missing))
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images have no label, the first: "
            f"{images[missing[0]]} (searched for {wanted[missing[0]]}), and {num_over} labels have "
            "no image; add the labels, or remove these images"
        )
    return {name: wanted.get(name) or labels[name + ending] for name in images}


def _common_ending(names: Collection[str], labels: Collection[str], place: Path) -> str:
    """What most names need to be the name of a label (`_mask`); two kinds are an error."""
    if all(name in labels for name in names):
        return ""
    endings = _count_endings(names, labels)
    best = min(endings, key=lambda ending: (-endings[ending], len(ending)), default="")
    left = set(labels) - {name + best for name in names}
    for other, count in _count_endings(names, left).items():
        if 2 * count > endings[best]:
            kinds = " and ".join(map(repr, sorted((best, other))))
            raise DataError(
                f"images have labels with the endings {kinds} in {place}; keep one kind there"
            )
    return best


def _count_endings(names: Collection[str], labels: Iterable[str]) -> Counter[str]:
    """How many labels are a name with this ending; a label may extend several names."""
    return Counter(
        label[length:]
        for label in labels
        for length in range(1, len(label) + 1)
        # The label of image 10 is not the label of image 1 with an ending.
        if label[:length] in names and not label[length : length + 1].isdigit()
    )


def held_out(names: Sequence[str], fraction: float) -> set[str]:
    """The names that validate: those with the smallest hash, at least one and not all.

    So new names move few of the others to the other split.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--val_fraction must be between 0 and 1, got {fraction}")
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} image cannot be divided into training and validation; add images"
        )
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    by_hash = sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())
    return set(islice(by_hash, count))


def read_split_file(path: Path, names: Mapping[str, object]) -> dict[str, list[str]]:
    """The names in each split, from lines like `train NAME`; `#` begins a comment.

    ValueError names the line with an unknown split, or with an unknown or repeated name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}; give a file with lines like `train NAME`")
    try:
        lines = re.split(r"\r\n|\r|\n", path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"split file {path} is not UTF-8") from error
    except OSError as error:
        raise ValueError(f"cannot read split file {path}: {error.strerror}") from error
    split_of: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"split file {path} line {number}"
        split, *rest = line.strip().split(maxsplit=1)
        if split not in SPLITS or not rest:
            raise ValueError(
                f"{where} is {line.strip()!r}; allowed: train NAME, val NAME, test NAME"
            )
        name = normalized(rest[0])
        if name not in names:
            bare = os.path.splitext(name)[0]
            hint = f"; its name is {bare!r}, without suffix" if bare in names else ""
            raise ValueError(f"{where}: no image has the name {name!r}{hint}")
        if name in split_of:
            raise ValueError(f"{where}: {name!r} is also in line {split_of[name][1]}")
        split_of[name] = split, number
    return {split: [n for n, (of, _) in split_of.items() if of == split] for split in SPLITS}
