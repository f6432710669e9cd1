"""What `main.py` and `predict.py` are told: all groups of options of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints

from utils.options.data_group import DataOptions
from utils.options.declare import (
    DEVICE,
    FILE,
    FLIP,
    FOLDER,
    GPU,
    IMAGES,
    NAME,
    REQUIRED,
    SCALE,
    SCALES,
    SHARE,
    SIDE,
    TILE,
    Value,
    option,
)
from utils.options.groups import ModelOptions, OptimOptions, RunOptions, VisOptions
from utils.runtime.precision import AUTOCAST_DTYPES


@dataclass(frozen=True)
class Options:
    """Everything `main.py` was told."""

    data: DataOptions
    model: ModelOptions
    optim: OptimOptions
    run: RunOptions
    vis: VisOptions


def flat(options: Options) -> dict[str, Any]:
    """Every option by its name, as plain values: for records and comparison."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for group in dataclasses.asdict(options).values()
        for name, value in group.items()
    }


def changed(options: Options) -> list[str]:
    """The names of the options that differ from their defaults."""
    groups = (getattr(options, group.name) for group in dataclasses.fields(options))
    values = {name: value for group in groups for name, value in vars(group).items()}
    return [name for name, field in fields().items() if values[name] != field.default]


def fields() -> dict[str, dataclasses.Field[Any]]:
    """The dataclass field of every option of `main.py`: its metadata are the facts about it."""
    groups = get_type_hints(Options).values()
    return {field.name: field for group in groups for field in dataclasses.fields(group)}


@dataclass(frozen=True)
class PredictOptions:
    """Prediction"""

    input: tuple[str, ...] = option(
        REQUIRED,
        "images, folders, which are searched with the folders in them, or patterns ('a/*.png')",
        Value("PATH"),
    )
    ckpt: str = option(
        REQUIRED,
        "checkpoint of main.py, an ONNX file of network.export, or a checkpoint of the predecessor "
        "with its flags below",
        FILE,
    )
    output: str = option("results", "folder for the masks; no file in it is replaced", FOLDER)
    overlay: bool = option(
        False, "also save NAME_overlay.jpg: the mask blended over the image, above a legend"
    )
    alpha: float = option(0.5, "share of the colors in the overlay", SHARE, only_with="overlay")
    contours: bool = option(
        False, "draw the borders between classes in the overlay", only_with="overlay"
    )
    rgb: bool = option(False, "also save NAME_rgb.png: the colors of the classes")
    confidence: bool = option(
        False, "also save NAME_confidence.png: the probability of the label, 255 is 1"
    )
    label_ids: bool = option(
        False,
        "save Cityscapes' original ids as its server wants them, instead of the masks; "
        "pictures then go to OUTPUT_pictures",
    )
    zip: str | None = option(
        None, "also pack the files of --label_ids into this archive", FILE, only_with="label_ids"
    )
    summary: str | None = option(
        None, "CSV with a line for each image: its confidence and the pixels of each class", FILE
    )
    labels: str | None = option(
        None,
        "folder with the labels of the images: print the scores",
        FOLDER,
        not_with=["crop_val"],
    )
    resume: bool = option(False, "write only the files that are missing, from an earlier start")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", DEVICE)
    gpu_id: str = option("0", "which GPU", GPU)
    precision: str = option("fp32", "arithmetic of the network", choices=("fp32", *AUTOCAST_DTYPES))
    batch_size: int | None = option(
        None,
        "images of one size that are predicted together (default: 1 on a CPU, else 4)",
        IMAGES,
    )
    num_workers: int | None = option(
        None,
        "threads that read images, and as many that write files "
        "(default: 1 on a CPU, else one a core, at most 16)",
        Value("N", 1, 256),
    )
    flip: bool = option(False, FLIP)
    scales: tuple[float, ...] = option((1.0,), SCALES, SCALE)
    val_tile: int | None = option(
        None, "side of the tiles in which to predict, to save memory", TILE
    )
    crop_val: bool = option(
        False, "resize the shorter side to --crop_size, and predict only the center crop"
    )
    crop_size: int = option(513, "side of the center crop in pixels", SIDE, only_with="crop_val")


@dataclass(frozen=True)
class PredecessorOptions:
    """Flags of the predecessor, for its checkpoints only: ours contain all this"""

    model: str | None = option(None, "name of the network", NAME)
    dataset: str | None = option(
        None, "data set it was trained on: class names and colors", choices=("voc", "cityscapes")
    )
    separable_conv: bool = option(False, "the network has separable convolutions")
    output_stride: int | None = option(None, "output stride", choices=(8, 16, 32))
    save_val_results_to: str | None = option(
        None, "as --output, but files in it are replaced, as the predecessor did", FOLDER
    )
    val_batch_size: int = option(1, "accepted, but has no effect; see --batch_size", IMAGES)
