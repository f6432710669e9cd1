"""SegmentationClassAug of VOC 2012: VOC's own labels, and SBD's for the images that have none.

The Semantic Boundaries Dataset (Hariharan et al., ICCV 2011) labels 11,355 images, of which VOC
2012 labels 2,237 itself. Together they are 12,031: the 10,582 of the literature's training split,
and the 1,449 of VOC's val.txt. SBD's labels have no void border.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import SBDataset
from tqdm import tqdm

from datasets.archive import download_and_unpack
from datasets.files import DataError, image_size
from datasets.resources import available_cores
from datasets.voc import CLASS_NAMES, FOLDERS, download_voc, label_names, read_split, voc_cmap

SBD_FOLDER = Path("benchmark_RELEASE") / "dataset"
SBD_LISTS = ("train.txt", "val.txt", "train_noval.txt")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of images: of the result, and of what it is made of."""

    train: int = 10_582
    val: int = 1_449
    voc_train: int = 1_464
    sbd: int = 11_355


@dataclass(kw_only=True)
class Result:
    """What is in SegmentationClassAug now; `problems` says in one line each why it is wrong."""

    train: int
    val: int
    made: int
    problems: list[str] = field(default_factory=list)


def prepare(
    data_root: Path, sbd: Path, *, expected: Counts | None = None, num_threads: int = 1
) -> Result:
    """Make VOCdevkit/VOC2012/SegmentationClassAug below `data_root`, each file at once or not.

    `sbd` holds cls/ and the lists, or benchmark_RELEASE/dataset/. A label that is there already,
    in the size of its image, is kept. Raises FileNotFoundError and ValueError for what is not
    there; files that can't be used become problems.
    """
    expected = expected or Counts()
    loadmat = _loadmat()
    base = data_root / FOLDERS["2012"]
    train, val = (read_split(base, split) for split in ("train", "val"))
    folder, sbd_names = _read_sbd(sbd)
    makers = {
        name: partial(_write_sbd, folder / "cls" / f"{name}.mat", loadmat) for name in sbd_names
    }
    makers |= {
        name: partial(_copy_own, base / "SegmentationClass" / f"{name}.png")
        for name in [*train, *val]
    }  # VOC's own win
    aug = base / "SegmentationClassAug"
    aug.mkdir(exist_ok=True)
    made, problems = _make_all(base, makers, num_threads=num_threads)
    present = set(label_names(aug))
    result = Result(train=len(present - set(val)), val=len(present & set(val)), made=made)
    if problems:
        result.problems.append(
            f"{len(problems)} labels could not be made, the first: {problems[0]}"
        )
    strays = sorted(present - makers.keys())
    if strays:
        result.problems.append(f"{len(strays)} labels are in no list, the first: {strays[0]}.png")
    found = Counts(
        train=result.train, val=result.val, voc_train=len(set(train)), sbd=len(sbd_names)
    )
    result.problems += _wrong_counts(found, expected, sbd=folder, base=base)
    return result


def _wrong_counts(found: Counts, expected: Counts, *, sbd: Path, base: Path) -> list[str]:
    lists = f"the lists in {base / 'ImageSets' / 'Segmentation'}"
    rows = [
        (found.sbd, expected.sbd, f"images in the lists of {sbd}"),
        (found.voc_train, expected.voc_train, f"names in train.txt of {lists}"),
        (found.train, expected.train, "labels to train on"),
        (found.val, expected.val, f"labels to validate on, by val.txt of {lists}"),
    ]
    return [f"{have:,} {what}, expected {want:,}" for have, want, what in rows if have != want]


Maker = Callable[[Path, tuple[int, int]], None]  # writes a label of (width, height) to a path


def _make_all(
    base: Path, makers: Mapping[str, Maker], *, num_threads: int
) -> tuple[int, list[str]]:
    """Number of labels made, and what was wrong with the others."""

    def make(name: str) -> bool | str:
        try:
            return _make(base, name, makers[name])
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(num_threads) as pool:  # Pillow and zlib let other threads run
        results = list(tqdm(pool.map(make, makers), total=len(makers), unit="labels", disable=None))
    return results.count(True), [result for result in results if isinstance(result, str)]


def _make(base: Path, name: str, write: Maker) -> bool:
    """Make one label; False: it was there."""
    size = image_size(base / "JPEGImages" / f"{name}.jpg")
    path = base / "SegmentationClassAug" / f"{name}.png"
    if path.is_file() and _has_size(path, size):
        return False
    # A dot in front: what a killed run leaves is no label.
    temporary = path.with_name(f".{name}-{os.getpid()}.tmp")
    try:
        write(temporary, size)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _has_size(path: Path, size: tuple[int, int]) -> bool:
    try:
        return image_size(path) == size
    except DataError:
        return False  # damaged: made anew


def _copy_own(label: Path, path: Path, size: tuple[int, int]) -> None:
    _require_size(label, image_size(label), size)
    path.write_bytes(label.read_bytes())


def _write_sbd(mat: Path, loadmat: Callable, path: Path, size: tuple[int, int]) -> None:
    try:
        classes = np.asarray(loadmat(mat, variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"])
        width, height = classes.shape[::-1]
    # Damaged files make the reader raise nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read GTcls.Segmentation of {mat}: {reason}") from error
    _require_size(mat, (width, height), size)
    wrong = sorted(set(np.unique(classes).tolist()) - set(range(len(CLASS_NAMES))))
    if wrong:
        raise DataError(f"label {mat}: values {wrong[:10]} no class; allowed: 0..20")
    image = Image.fromarray(classes.astype(np.uint8))
    image.putpalette(voc_cmap().tobytes())
    image.save(path, format="PNG")


def _require_size(label: Path, found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != size:
        raise DataError(
            f"sizes differ: the image is {size[0]}x{size[1]}, its label {label} "
            f"{found[0]}x{found[1]}"
        )


def _read_sbd(sbd: Path) -> tuple[Path, list[str]]:
    """The folder that holds cls/, and the names in its lists, sorted."""
    for folder in (sbd, sbd / SBD_FOLDER):
        lists = [folder / name for name in SBD_LISTS if (folder / name).is_file()]
        if lists and (folder / "cls").is_dir():
            return folder, sorted({name for path in lists for name in path.read_text().split()})
    raise FileNotFoundError(
        f"no SBD in {sbd}: it must hold cls/ and train.txt and val.txt, or {SBD_FOLDER}/ with "
        f"them; pass --download, or --sbd with the folder that {SBDataset.url} was unpacked in"
    )


def _download_sbd(sbd: Path) -> None:
    try:
        _read_sbd(sbd)
    except FileNotFoundError:
        download_and_unpack(
            SBDataset.url,
            sbd,
            md5=SBDataset.md5,
            member=SBD_FOLDER,
            target=sbd,
            last=SBD_LISTS,
        )


def _loadmat() -> Callable:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(
            "SBD's labels are MATLAB files; to read them: pip install scipy"
        ) from error
    return loadmat


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.voc",
        description="Make SegmentationClassAug of VOC 2012 from VOC and SBD, or go on with it.",
    )
    parser.add_argument(
        "--prepare_aug", action="store_true", required=True, help="make SegmentationClassAug"
    )
    parser.add_argument("--data_root", type=Path, required=True, help="folder of VOCdevkit/")
    parser.add_argument("--sbd", type=Path, help="folder of SBD (default: sbd/ in --data_root)")
    parser.add_argument(
        "--download", action="store_true", help="fetch VOC 2012 and SBD where they are not there"
    )
    return parser


def main(args: Sequence[str] | None = None, *, expected: Counts | None = None) -> int:
    """The command; 0: done and complete, 1: the result is not what it should be, 2: can't start."""
    options = _parser().parse_args(args)
    sbd = options.sbd or options.data_root / "sbd"
    try:
        _loadmat()  # said before gigabytes are fetched
        if options.download:
            download_voc(options.data_root, "2012", "train")
            _download_sbd(sbd)
        result = prepare(options.data_root, sbd, expected=expected, num_threads=available_cores())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    folder = options.data_root / FOLDERS["2012"] / "SegmentationClassAug"
    print(
        f"{folder}: {result.train:,} to train on, {result.val:,} to validate on; "
        f"{result.made:,} new"
    )
    if result.problems:
        print(f"error: {'; '.join(result.problems)}", file=sys.stderr)
    return 1 if result.problems else 0
