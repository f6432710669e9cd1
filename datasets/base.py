"""The dataset contract: what training, validation and prediction may expect of any data set.

A data set is a list of samples. `load(index)` gives one as PIL images, the label already holding
train ids: 0 .. number of classes - 1, and 255 for pixels that are ignored. `dataset[key]` gives it
after the joint transform, as uint8 tensors. What a data set knows about its classes is data:
`class_names`, `palette`, and `label_table`, which maps the values in label files to train ids.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

IGNORE = 255
NO_CLASS = -1  # in a label table: this value must not occur in a label file

Transform = Callable[[Image.Image, Image.Image, np.random.Generator], tuple[Tensor, Tensor]]


class DataError(ValueError):
    """A file of the data set that cannot be used; the message is one line and names the file."""


class SampleKey(NamedTuple):
    """Which sample, and which of its augmentations: the same key always gives the same tensors."""

    epoch: int
    position: int  # place in the epoch's order, over all processes
    index: int


def data_error_line(error: BaseException) -> str:
    """The one line of a DataError, also of one that came from a DataLoader worker.

    A worker's error is raised again in the main process with the whole traceback as its text; the
    original line is then the last one.
    """
    lines = re.findall(r"^(?:[\w.]+\.)?DataError: (.*)$", str(error), flags=re.MULTILINE)
    return lines[-1] if lines else str(error)


def make_label_table(train_ids: dict[int, int]) -> np.ndarray:
    """Table (256,) int16 from label value to train id; 255 is ignored, the rest NO_CLASS."""
    table = np.full(256, NO_CLASS, dtype=np.int16)
    table[IGNORE] = IGNORE
    for value, train_id in train_ids.items():
        table[value] = train_id
    table.flags.writeable = False
    return table


def make_palette(colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Palette (256, 3) uint8 that begins with the given colours and is black after them."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    palette.flags.writeable = False
    return palette


class SegmentationDataset(Dataset):
    """Base of all data sets; a subclass states the class data and writes the three methods."""

    class_names: ClassVar[tuple[str, ...]]
    palette: ClassVar[np.ndarray]  # (256, 3) uint8, by train id
    label_table: ClassVar[np.ndarray]  # (256,) int16, see make_label_table
    splits: ClassVar[tuple[str, ...]]
    how_to_get: ClassVar[str | None] = None  # told when data_root does not exist; None: no files

    def __init__(self, *, transform: Transform | None = None, seed: int = 0) -> None:
        self.transform = transform if transform is not None else _to_tensors
        self.seed = seed

    def __len__(self) -> int:
        raise NotImplementedError

    def load(self, index: int) -> tuple[Image.Image, Image.Image]:
        """RGB image and "L" label of the same size, the label in train ids or 255."""
        raise NotImplementedError

    def sample_name(self, index: int) -> str:
        """Unique relative path without suffix, with `/` between folders on every system."""
        raise NotImplementedError

    @classmethod
    def create(
        cls,
        split: str,
        *,
        root: Path,
        transform: Transform | None,
        seed: int,
        year: str,
        download: bool,
    ) -> SegmentationDataset:
        """Build from the options of `create_dataset`, using those that mean something here."""
        raise NotImplementedError

    def __getitem__(self, key: int | SampleKey) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and label (H, W), both uint8; an int means that sample in epoch 0."""
        if not isinstance(key, SampleKey):
            index = range(len(self))[key]  # negative counts from the end; IndexError past it
            key = SampleKey(epoch=0, position=index, index=index)
        image, label = self.load(key.index)
        rng = np.random.default_rng((self.seed, key.epoch, key.position))
        return self.transform(image, label, rng)

    @classmethod
    def encode_target(cls, target: np.ndarray) -> np.ndarray:
        """Label file values of any shape -> train ids, uint8, in a new array."""
        target = np.asarray(target)
        values = np.unique(target)
        wrong = [v for v in values.tolist() if not _is_class(v, cls.label_table)]
        if wrong:
            raise ValueError(f"label {_describe_wrong(wrong, cls.label_table)}")
        return cls.label_table[target].astype(np.uint8)  # -1 indexes the last entry, 255: ignored

    @classmethod
    def decode_target(cls, target: np.ndarray | Tensor) -> np.ndarray:
        """Train ids of any shape -> colours (..., 3) uint8, in a new array."""
        ids = target.cpu().numpy() if isinstance(target, Tensor) else np.asarray(target)
        if ids.size and (ids.min() < 0 or ids.max() > 255):
            raise ValueError(f"train ids must be 0..255, got {ids.min()}..{ids.max()}")
        return cls.palette[ids.astype(np.uint8)]


class FileDataset(SegmentationDataset):
    """Samples that are pairs of files; all are looked for at once, so training finds no gap later.

    `names[i]` is the sample name of `images[i]`. `labels=None` is a split without ground truth: its
    labels are all 255. `hint` ends the error about missing files.
    """

    def __init__(
        self,
        images: Sequence[Path],
        labels: Sequence[Path] | None,
        names: Sequence[str],
        *,
        transform: Transform | None = None,
        seed: int = 0,
        hint: str = "",
    ) -> None:
        super().__init__(transform=transform, seed=seed)
        if not images:
            raise ValueError(f"the data set is empty: no image{hint and f'; {hint}'}")
        _require_files("image", images, hint)
        if labels is not None:
            _require_files("label", labels, hint)
        self.images = list(images)
        self.labels = None if labels is None else list(labels)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.images)

    def sample_name(self, index: int) -> str:
        return self.names[index]

    def load(self, index: int) -> tuple[Image.Image, Image.Image]:
        image = read_image(self.images[index])
        if self.labels is None:
            return image, Image.new("L", image.size, IGNORE)
        label = read_label(self.labels[index], self.label_table)
        if image.size != label.size:
            raise DataError(
                f"sizes differ: image {self.images[index]} is {_size_text(image)}, "
                f"its label {self.labels[index]} is {_size_text(label)}"
            )
        return image, label


def read_image(path: Path, *, upright: bool = False) -> Image.Image:
    """RGB image of a file of any mode; alpha is dropped, 16 bit grey scaled to 8.

    Without `upright` the pixels come as stored: labels have no EXIF orientation.
    """
    image = _open(path)
    if upright:
        image = _upright(image)
    if image.mode.startswith("I"):  # 16 bit grey; convert() would clip, not scale
        grey = np.clip(np.asarray(image).astype(np.int32), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode == "F":
        raise DataError(f"{path} holds floating-point pixels, whose range is unknown; use 8 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise DataError(f"cannot make RGB of {path} (mode {image.mode}): {error}") from error


# EXIF orientation -> what shows the image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Turn as the EXIF orientation says; a block that can't be read says nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = UPRIGHT.get(image.getexif().get(0x0112))
    # Damaged blocks make the parser raise nearly anything.
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def read_label(path: Path, table: np.ndarray) -> Image.Image:
    """Label "L" in train ids; any value that `table` (256,) calls NO_CLASS is an error."""
    label = _open(path)
    if label.mode not in ("L", "P"):
        raise DataError(
            f"label {path} has mode {label.mode}; allowed is one 8-bit channel of class ids "
            "(grey, or palette indices)"
        )
    histogram = label.histogram()  # of the indices, for a palette image
    wrong = [v for v, count in enumerate(histogram) if count and table[v] == NO_CLASS]
    if wrong:
        raise DataError(f"label {path}: {_describe_wrong(wrong, table)}")
    # point() maps palette indices, where convert("L") would turn them into brightness.
    return label.point((table & 255).tolist(), "L")


def _to_tensors(image: Image.Image, label: Image.Image, _: object) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(np.array(image))  # (H, W, 3)
    return pixels.permute(2, 0, 1).contiguous(), torch.from_numpy(np.array(label))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    # Damaged files make decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error


def _require_files(kind: str, paths: Sequence[Path], hint: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} {kind} files missing, the first: {missing[0]}"
            f"{hint and f'; {hint}'}"
        )


def _is_class(value: int, table: np.ndarray) -> bool:
    return -1 <= value <= 255 and table[value] != NO_CLASS


def _describe_wrong(wrong: Sequence[int], table: np.ndarray) -> str:
    shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
    noun = "value" if len(wrong) == 1 else "values"
    allowed = [v for v in range(255) if table[v] != NO_CLASS]
    return f"{noun} {shown} no class; allowed: {_ranges(allowed)} and 255 (ignored)"


def _ranges(values: Sequence[int]) -> str:
    """Sorted integers in short: 0..3, 7, 9..11."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join("..".join(map(str, run)) for run in runs)


def _size_text(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
