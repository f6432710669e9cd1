"""The data sets, by the names of `--dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datasets.base import SampleKey, SegmentationDataset
from datasets.cityscapes import Cityscapes
from datasets.facts import ClassFacts, check_choice
from datasets.files import DataError, data_error_line
from datasets.folder import Folder
from datasets.shapes import Shapes
from datasets.voc import VOCSegmentation
from utils.ext_transforms import AnyTransform

DATASETS: dict[str, type[SegmentationDataset]] = {
    "voc": VOCSegmentation,
    "cityscapes": Cityscapes,
    "folder": Folder,
    "shapes": Shapes,
}


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def class_facts(name: str, root: Path, options: Mapping[str, Any] = NO_OPTIONS) -> ClassFacts:
    """Class names, colors and label values of the data set `name` in `root`.

    Raises ValueError for an unknown name, FileNotFoundError for data that is not there.
    """
    return _look_up(name, root, options).read_facts(root)


def create_dataset(
    name: str,
    split: str,
    *,
    root: Path,
    options: Mapping[str, Any] = NO_OPTIONS,
    transform: AnyTransform | None = None,
    seed: int = 0,
    allow_missing: bool = False,
) -> SegmentationDataset:
    """Build the data set `name` in `root`.

    `options` maps names of command-line options to values; a data set takes those it states.
    Raises ValueError for an unknown name or split, FileNotFoundError for data that is not there.
    """
    dataset = _look_up(name, root, options)
    if split not in dataset.splits:
        raise ValueError(
            f"dataset {name} has no split {split!r}; it has {', '.join(dataset.splits)}"
        )
    own = {option: options[option] for option in dataset.options if option in options}
    created = dataset.create(split, root=root, allow_missing=allow_missing, **own)
    created.seed = seed
    if transform is not None:
        created.transform = transform
    return created


def _look_up(name: str, root: Path, options: Mapping[str, Any]) -> type[SegmentationDataset]:
    check_choice("dataset", name, DATASETS)
    dataset = DATASETS[name]
    fetches = "download" in dataset.options and options.get("download")
    if dataset.how_to_get is not None and not fetches and not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"--data_root {root} {problem}; {dataset.how_to_get}, or try --dataset shapes, "
            "which needs no files"
        )
    return dataset
