"""The data sets, by the names of `--dataset`."""

from __future__ import annotations

from datasets.base import ClassFacts, SampleKey, SegmentationDataset, Source, Transform
from datasets.cityscapes import Cityscapes
from datasets.files import DataError, data_error_line
from datasets.folder import Folder
from datasets.shapes import Shapes
from datasets.voc import VOCSegmentation

__all__ = [
    "DATASETS",
    "ClassFacts",
    "Cityscapes",
    "DataError",
    "Folder",
    "SampleKey",
    "SegmentationDataset",
    "Shapes",
    "Source",
    "VOCSegmentation",
    "class_facts",
    "create_dataset",
    "data_error_line",
]

DATASETS: dict[str, type[SegmentationDataset]] = {
    "voc": VOCSegmentation,
    "cityscapes": Cityscapes,
    "folder": Folder,
    "shapes": Shapes,
}


def class_facts(name: str, source: Source) -> ClassFacts:
    """Class names, colours and label values of the data set `name`.

    Raises ValueError for an unknown name, FileNotFoundError for data that is not there.
    """
    return _looked_up(name, source).class_facts(source)


def create_dataset(
    name: str, split: str, *, source: Source, transform: Transform | None = None, seed: int = 0
) -> SegmentationDataset:
    """Build a data set by name.

    Raises ValueError for an unknown name or split, FileNotFoundError for data that is not there.
    """
    dataset = _looked_up(name, source)
    if split not in dataset.splits:
        raise ValueError(
            f"dataset {name} has no split {split!r}; it has {', '.join(dataset.splits)}"
        )
    return dataset.create(split, source=source, transform=transform, seed=seed)


def _looked_up(name: str, source: Source) -> type[SegmentationDataset]:
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; allowed: {', '.join(DATASETS)}")
    dataset, root = DATASETS[name], source.root
    if dataset.how_to_get is not None and not source.download and not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"--data_root {root} {problem}; {dataset.how_to_get}, or try --dataset shapes, "
            "which needs no files"
        )
    return dataset
