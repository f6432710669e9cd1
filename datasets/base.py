"""The dataset contract: what training and validation expect of any data set.

A data set is a list of samples. `load(index)` gives one as arrays whose label holds train ids:
0 .. number of classes - 1, and 255 for ignored pixels. `dataset[key]` gives it after the joint
transform. What a data set knows about its classes is one `ClassFacts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.facts import ClassFacts
from datasets.files import DataError, is_turned, read_image, read_label
from utils.ext_transforms import AnyTransform, ExtPILToTensor, call, new_rng, takes_pictures
from utils.utils import IGNORE_INDEX


class SampleKey(NamedTuple):
    """Which sample, and which of its augmentations: the same key always gives the same tensors."""

    epoch: int
    position: int  # in the order of the epoch, over all processes
    index: int  # type: ignore[assignment]  # nobody needs the method of tuple


class SampleStore(Protocol):
    """Where a FileDataset looks for a decoded sample first, like datasets/loader/cache.py."""

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What `FileDataset.decode` gives."""


class SegmentationDataset(Dataset):
    """Base of all data sets; a subclass states its facts and overrides the methods that raise.

    `transform` takes image and label, as PIL pictures, and gives both. With a parameter `rng`, a
    `numpy.random.Generator`, it takes arrays instead: those of utils.ext_transforms do.

    With `skip_bad_files = True`, a sample that raises DataError is left out, and `bad_indices()`
    lists it in all processes. Set it before a loader starts its processes.
    """

    facts: ClassFacts
    splits: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()  # names of options that `create` takes
    color_jitter: ClassVar[float] = 0.0  # default of --color_jitter
    how_to_get: ClassVar[str | None] = None  # for the error without data_root; None: no files
    seed: int = 0  # of the augmentation
    _bad: Tensor | None = None  # (number of samples,) uint8 in shared memory: 1 is bad

    def __init__(self, *, transform: AnyTransform | None = None) -> None:
        self.transform = transform
        self.notes: list[str] = []  # what the user should know about how it was built

    def __len__(self) -> int:
        raise NotImplementedError

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and label (H, W) in train ids or 255, both uint8, perhaps read-only."""
        raise NotImplementedError

    def sample_name(self, index: int) -> str:
        """A unique relative path without suffix, with `/` between folders on every system."""
        raise NotImplementedError

    @classmethod
    def create(cls, split: str, *, root: Path, allow_missing: bool) -> SegmentationDataset:
        """Build for `create_dataset`; a subclass adds the parameters named in `options`.

        With `allow_missing`, files may be missing as long as one sample is complete.
        """
        raise NotImplementedError

    @classmethod
    def read_facts(cls, root: Path) -> ClassFacts:
        """The class facts, before the samples are searched for."""
        return cls.facts

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by train id."""
        return self.facts.class_names

    @property
    def palette(self) -> np.ndarray:
        """The colors (256, 3) uint8 of the classes, by train id."""
        return self.facts.palette

    def __getitem__(self, key: int | SampleKey) -> tuple[Any, Any] | None:
        """Image and label as the transform gives them; None for a bad sample that is left out.

        An int draws anew each time, from torch's global generator; without a transform it gives PIL
        pictures, the label in train ids. A SampleKey gives a `sample`, or else the next good one.
        """
        if isinstance(key, SampleKey):
            return self.sample(key, or_next=True)
        found = self._load_good(range(len(self))[key], or_next=False)  # -1 is the last
        if found is None:
            return None
        if self.transform is None:
            return _as_pictures(*found, self.palette)
        return self._transformed(self.transform, *found, new_rng())

    def sample(self, key: SampleKey, *, or_next: bool = False) -> tuple[Tensor, Tensor] | None:
        """Image (3, H, W) and label (H, W), both uint8, as a function of seed and key.

        A bad sample that is left out is None or, with `or_next`, the next good one.
        """
        found = self._load_good(key.index, or_next=or_next)
        if found is None:
            return None
        rng = np.random.default_rng((self.seed, key.epoch, key.position))
        return self._transformed(self.transform or TO_TENSORS, *found, rng)

    def _transformed(
        self, transform: AnyTransform, image: Any, label: Any, rng: np.random.Generator
    ) -> tuple[Any, Any]:
        if takes_pictures(transform):
            image, label = _as_pictures(image, label, self.palette)
        return call(transform, image, label, rng)

    @property
    def skip_bad_files(self) -> bool:
        """Whether bad samples are left out; otherwise they raise DataError."""
        return self._bad is not None

    @skip_bad_files.setter
    def skip_bad_files(self, skip: bool) -> None:
        shared = torch.zeros(len(self), dtype=torch.uint8).share_memory_() if skip else None
        self._bad = shared

    def bad_indices(self) -> list[int]:
        """The samples left out so far, by this process and its loader processes."""
        return [] if self._bad is None else self._bad.nonzero().flatten().tolist()

    def _load_good(self, index: int, *, or_next: bool) -> tuple[np.ndarray, np.ndarray] | None:
        if self._bad is None:
            return self.load(index)
        count, problem = len(self), None
        for step in range(count if or_next else 1):
            candidate = (index + step) % count
            # Also read what was bad before: the substitute must not depend on what this process,
            # or the run before a resume, has met.
            try:
                return self.load(candidate)
            except DataError as error:
                self._bad[candidate] = 1
                problem = problem or error
        if or_next:
            raise DataError(f"none of the {count} samples can be read; the first: {problem}")
        return None


class FileDataset(SegmentationDataset):
    """Samples that are pairs of files, all of which must exist when the data set is built.

    `names[i]` is the sample name of `images[i]`. `labels=None` is a split without ground truth: its
    labels are all 255. `hint` ends the error about missing files. With `allow_missing` only a data
    set without any complete sample is an error. `load` looks in `cache` first, if it is set.
    """

    cache: SampleStore | None = None

    def __init__(
        self,
        images: Sequence[Path],
        labels: Sequence[Path] | None,
        names: Sequence[str],
        *,
        transform: AnyTransform | None = None,
        hint: str = "",
        allow_missing: bool = False,
    ) -> None:
        super().__init__(transform=transform)
        if not images:
            raise ValueError(f"the data set holds no image{hint and f'; {hint}'}")
        if not (allow_missing and _any_complete(images, labels)):
            _require_files("image", images, hint)
            _require_files("label", labels or (), hint)
        self.images = list(images)
        self.labels = None if labels is None else list(labels)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.images)

    def sample_name(self, index: int) -> str:
        return self.names[index]

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.decode(index) if self.cache is None else self.cache.load(index)

    def decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What `load` gives, from the files themselves."""
        image = np.asarray(read_image(self.images[index]))
        label = self.load_label(index)
        if label is None or self.labels is None:
            return image, np.full(image.shape[:2], IGNORE_INDEX, dtype=np.uint8)
        if image.shape[:2] != label.shape:
            turned = image.shape[1::-1] == label.shape and is_turned(self.images[index])
            hint = "; the image has an EXIF orientation, and the label must fit the stored pixels"
            raise DataError(
                f"sizes differ: image {self.images[index]} is {_size_text(image)}, "
                f"its label {self.labels[index]} is {_size_text(label)}{hint if turned else ''}"
            )
        return image, label

    def load_label(self, index: int) -> np.ndarray | None:
        """Label (H, W) uint8 in train ids, without its image; None in a split without labels."""
        if self.labels is None:
            return None
        return read_label(self.labels[index], self.facts.label_table, colors=self.facts.colors)


TO_TENSORS = ExtPILToTensor()


def _as_pictures(
    image: np.ndarray, label: np.ndarray, palette: np.ndarray
) -> tuple[Image.Image, Image.Image]:
    """The image as RGB, and the label as palette indices."""
    ids = Image.fromarray(label)
    ids.putpalette(palette.tobytes())
    return Image.fromarray(image), ids


def _any_complete(images: Sequence[Path], labels: Sequence[Path] | None) -> bool:
    pairs = zip(images, images if labels is None else labels, strict=True)
    return any(image.is_file() and label.is_file() for image, label in pairs)


def _require_files(kind: str, paths: Sequence[Path], hint: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} {kind} files are missing, the first: {missing[0]}"
            f"{' (which is no regular file)' * missing[0].exists()}"
            f"{hint and f'; {hint}'}"
        )


def _size_text(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
