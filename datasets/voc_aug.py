"""Make SegmentationClassAug of VOC 2012 from VOC's own labels and those of SBD.

    python -m datasets.voc_aug --data_root DIR --download

The Semantic Boundaries Dataset (Hariharan et al., ICCV 2011) labels 11,355 images, of which VOC
2012 labels 2,237 itself; VOC's own labels win. Together they are 12,031: the 10,582 of the
literature's training split, and the 1,449 of VOC's val.txt. SBD's labels have no void border.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torchvision.datasets import SBDataset
from tqdm import tqdm

from datasets.archive import download_and_unpack
from datasets.files import DataError, image_size
from datasets.loader import available_cores
from datasets.voc import CLASS_NAMES, FOLDERS, download_voc, label_names, read_split, voc_cmap
from utils.runtime.files import open_regular, write_bytes

SBD_FOLDER = Path("benchmark_RELEASE") / "dataset"
SBD_LISTS = ("train.txt", "val.txt", "train_noval.txt")

Size = tuple[int, int]  # width, height


class Counts(NamedTuple):
    """Numbers of labels; the defaults are those of the literature."""

    train: int = 10_582
    val: int = 1_449


def prepare(data_root: Path, sbd: Path) -> tuple[Counts, list[str]]:
    """Make the labels that are missing; returns how many there are now, and what went wrong.

    `sbd` holds cls/ and the lists, or benchmark_RELEASE/dataset/ with them. A label that exists in
    the size of its image is kept. Raises FileNotFoundError and ValueError for missing data.
    """
    base = data_root / FOLDERS["2012"]
    val = set(read_split(base, "val"))
    own = val.union(read_split(base, "train"))
    folder = _find_sbd(sbd)
    lists = [folder / name for name in SBD_LISTS if (folder / name).is_file()]
    names = sorted(own.union(name for path in lists for name in path.read_text().split()))
    aug = base / "SegmentationClassAug"
    aug.mkdir(exist_ok=True)

    def make(name: str) -> str:
        """Make one label; returns the problem, if there is one."""
        source = folder / "cls" / f"{name}.mat"
        if name in own:
            source = base / "SegmentationClass" / f"{name}.png"
        try:
            size = image_size(base / "JPEGImages" / f"{name}.jpg")
            if not _has_size(aug / f"{name}.png", size):
                write_bytes(aug / f"{name}.png", _read_label(source, size))
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(available_cores()) as pool:  # Pillow and zlib let other threads run
        progress = tqdm(pool.map(make, names), total=len(names), unit="labels", disable=None)
        failures = list(filter(None, progress))
    problems = [f"{len(failures)} labels failed, the first: {failures[0]}"] if failures else []
    present = set(label_names(aug))
    if strays := sorted(present.difference(names)):
        problems.append(f"{len(strays)} labels are in no list, the first: {strays[0]}.png")
    return Counts(len(present - val), len(present & val)), problems


def _find_sbd(sbd: Path) -> Path:
    """The folder that holds cls/ and the lists."""
    for folder in (sbd, sbd / SBD_FOLDER):
        if (folder / "cls").is_dir() and any((folder / name).is_file() for name in SBD_LISTS):
            return folder
    raise FileNotFoundError(
        f"no SBD in {sbd}: it must hold cls/, train.txt and val.txt, or {SBD_FOLDER}/ with them; "
        f"pass --download, or --sbd with the folder that {SBDataset.url} was unpacked in"
    )


def _has_size(path: Path, size: Size) -> bool:
    try:
        return image_size(path) == size
    except DataError:
        return False  # missing or damaged


def _read_label(source: Path, size: Size) -> bytes:
    """The content of the PNG for a label of VOC or SBD; DataError if it does not fit its image."""
    if source.suffix == ".png":
        found, content = image_size(source), source.read_bytes()
    else:
        classes = _read_mat(source)
        image = Image.fromarray(classes)
        image.putpalette(voc_cmap().tobytes())
        stream = io.BytesIO()
        image.save(stream, format="PNG")
        found, content = image.size, stream.getvalue()
    if found != size:
        raise DataError(
            f"sizes differ: the image is {size[0]}x{size[1]}, its label {source} is "
            f"{found[0]}x{found[1]}"
        )
    return content


def _read_mat(path: Path) -> np.ndarray:
    """Label (H, W) uint8 in VOC's classes from a MATLAB file of SBD."""
    from scipy.io import loadmat  # nothing else needs scipy

    try:
        with open_regular(path) as file:
            content = loadmat(file, variable_names=["GTcls"])
        classes = np.asarray(content["GTcls"][0, 0]["Segmentation"])
        if classes.ndim != 2:
            raise ValueError(f"it has the shape {classes.shape}; it must be (H, W)")
    except Exception as error:  # damaged files make the reader raise nearly anything
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read GTcls.Segmentation of {path}: {reason}") from error
    if not 0 <= classes.min() <= classes.max() < len(CLASS_NAMES):
        raise DataError(f"label {path} holds {classes.min()}..{classes.max()}; allowed: 0..20")
    return classes.astype(np.uint8)


def _download_sbd(sbd: Path) -> None:
    try:
        _find_sbd(sbd)
    except FileNotFoundError:
        download_and_unpack(
            SBDataset.url,
            sbd / Path(SBDataset.url).name,
            md5=SBDataset.md5,
            member=SBD_FOLDER,
            target=sbd,
            last=SBD_LISTS,
        )


def main(args: Sequence[str] | None = None, *, expected: Counts | None = None) -> int:
    """Run the command; 0: complete, 1: the result is not as expected, 2: it could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.voc_aug",
        description="Make SegmentationClassAug of VOC 2012 from VOC and SBD.",
    )
    parser.add_argument("--data_root", type=Path, required=True, help="folder of VOCdevkit/")
    parser.add_argument("--sbd", type=Path, help="folder of SBD (default: sbd/ in --data_root)")
    parser.add_argument("--download", action="store_true", help="fetch VOC 2012 and SBD if missing")
    options = parser.parse_args(args)
    root, sbd = options.data_root, options.sbd or options.data_root / "sbd"
    expected = expected or Counts()
    try:
        import scipy.io  # noqa: F401  before gigabytes are fetched

        if options.download:
            download_voc(root, "2012", "train")
            _download_sbd(sbd)
        counts, problems = prepare(root, sbd)
    except ImportError:
        print("error: SBD's labels are MATLAB files; run: pip install scipy", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    print(f"{counts.train:,} labels to train on and {counts.val:,} to validate on are in {root}")
    if counts != expected:
        problems.append(
            f"expected {expected.train:,} to train on and {expected.val:,} to validate on"
        )
    if problems:
        print(f"error: {'; '.join(problems)}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
