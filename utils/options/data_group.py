"""The options on data; see groups.py for the others."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import DATASETS
from datasets.voc import FOLDERS as VOC_FOLDERS
from utils.options.declare import (
    FILE,
    FOLDER,
    IMAGES,
    SHARE,
    SIDE,
    Value,
    option,
)

COLOR_JITTER = ", ".join(f"{name} {data.color_jitter:g}" for name, data in DATASETS.items())


@dataclass(frozen=True)
class DataOptions:
    """Data"""

    data_root: str = option("./datasets/data", "folder of the data set", FOLDER)
    dataset: str = option(
        "voc", "folder is your own images, shapes needs no files", choices=tuple(DATASETS)
    )
    num_classes: int | None = option(
        None,
        "outputs of the network (default: the classes of the data set)",
        Value("N", 2, 255),  # 255 in a label means ignored
        free_on_resume=True,  # other names of the outputs are refused
    )
    year: str = option("2012", "year of VOC", choices=tuple(reversed(VOC_FOLDERS)))
    download: bool = option(False, "download the data set first", free_on_resume=True)
    train_split: str = option(
        "train",
        "images to train on; trainval adds val, train_extra is Cityscapes' coarse labels",
        choices=("train", "trainval", "train_extra"),
    )
    val_fraction: float = option(
        0.1,
        "share of the images that validates, if they are not in split folders",
        Value("SHARE", 0, 1, excluded=(0, 1)),
        not_with=["split_file"],
    )
    split_file: str | None = option(
        None, "file with a line `train NAME`, `val NAME` or `test NAME` for each image", FILE
    )
    cache: str | None = option(
        None,
        "folder for decoded images and labels (Cityscapes: 25 GB); several runs can share it",
        FOLDER,
        not_with=["check_data", "dataset shapes"],
        free_on_resume=True,
    )
    check_data: bool = option(
        False, "read every file, print what was found, and stop", free_on_resume=True
    )
    skip_bad_files: bool = option(
        False, "leave out files that can't be read, and say how many", free_on_resume=True
    )
    crop_size: int = option(513, "side of the square training crop in pixels", SIDE)
    crop_val: bool = option(
        False,
        "validate on center crops of --crop_size after resizing the shorter side to it; "
        "not comparable with published scores (default: whole images)",
    )
    scale_range: tuple[float, float] = option(
        (0.5, 2.0), "range of the random scale of training images", Value("FACTOR", 0.05, 20)
    )
    color_jitter: float | None = option(
        None,
        "largest random change of brightness, contrast and saturation of training images "
        f"(default: {COLOR_JITTER})",
        SHARE,
    )
    cat_max_ratio: float = option(
        1.0,
        "draw a training crop again if one class fills more than this share of it",
        Value("SHARE", 0, 1, excluded=(0,)),
    )
    batch_size: int = option(16, "training images per batch, over all processes together", IMAGES)
    val_batch_size: int | None = option(
        None,
        "validation images per batch (default: 4 with --crop_val, else 1)",
        IMAGES,
        free_on_resume=True,
    )
    num_workers: int | None = option(
        None,
        "loader processes; 0 loads in the training process (default: by the number of cores)",
        Value("N", 0, 1024),  # more than a machine has cores
        free_on_resume=True,
    )
