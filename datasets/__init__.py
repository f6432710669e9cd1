"""The data sets, by the names of `--dataset`."""

from __future__ import annotations

from pathlib import Path

from datasets.base import DataError, SampleKey, SegmentationDataset, Transform, data_error_line
from datasets.cityscapes import Cityscapes
from datasets.shapes import Shapes
from datasets.voc import VOCSegmentation

__all__ = [
    "DATASETS",
    "Cityscapes",
    "DataError",
    "SampleKey",
    "SegmentationDataset",
    "Shapes",
    "VOCSegmentation",
    "create_dataset",
    "data_error_line",
]

DATASETS: dict[str, type[SegmentationDataset]] = {
    "voc": VOCSegmentation,
    "cityscapes": Cityscapes,
    "shapes": Shapes,
}


def create_dataset(
    name: str,
    split: str,
    *,
    root: str | Path,
    transform: Transform | None = None,
    seed: int = 0,
    year: str = "2012",
    download: bool = False,
) -> SegmentationDataset:
    """Build a data set by name; `year` and `download` mean something for VOC only.

    Raises ValueError for an unknown name or split, FileNotFoundError for data that is not there.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; allowed: {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    if split not in dataset.splits:
        raise ValueError(
            f"dataset {name} has no split {split!r}; allowed: {', '.join(dataset.splits)}"
        )
    root = Path(root)
    if dataset.how_to_get is not None and not download and not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(
            f"--data_root {root} {problem}; {dataset.how_to_get}, or try --dataset shapes, "
            "which needs no files"
        )
    return dataset.create(
        split, root=root, transform=transform, seed=seed, year=year, download=download
    )
