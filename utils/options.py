"""The command line, declared once: frozen dataclasses from which the parsers are generated.

A function gets the group it needs, or plain values, never everything. Flags keep the names,
defaults and meanings of VainF/DeepLabV3Plus-Pytorch unless their help says otherwise. Argument
files: ``python main.py @recipes/NAME.txt --lr 0.02`` (one or more flags a line, ``#`` comments).
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from utils.arguments import option, parse


@dataclass(frozen=True)
class DataOptions:
    """Data"""

    data_root: str = option("./datasets/data", "folder of the data set")
    dataset: str = option(
        "voc", "which data set; shapes needs no files", choices=("voc", "cityscapes", "shapes")
    )
    num_classes: int | None = option(
        None, "outputs of the network, up to 255; the data set's own number if not given", minimum=2
    )
    year: str = option(
        "2012",
        "year of VOC",
        choices=("2012_aug", "2012", "2011", "2010", "2009", "2008", "2007"),
    )
    download: bool = option(False, "fetch the data set first (VOC; Cityscapes needs a login)")
    crop_size: int = option(513, "side of the square training crop, pixels", minimum=33)
    crop_val: bool = option(
        False,
        "validate on centre crops of --crop_size after resizing the shorter side to it; "
        "not comparable with published numbers. Without it: whole images",
    )
    scale_range: tuple[float, float] = option(
        (0.5, 2.0), "random scale of training images, from and to", nargs=2, minimum=0.05
    )
    batch_size: int = option(16, "training images per step, all processes together", minimum=1)
    val_batch_size: int | None = option(
        None, "validation images per step (default: 4 with --crop_val, else 1)", minimum=1
    )
    num_workers: int = option(2, "loader processes; 0 loads in the main process", minimum=0)


@dataclass(frozen=True)
class ModelOptions:
    """Model"""

    model: str = option("deeplabv3plus_mobilenet", "network name; see --list_models")
    list_models: bool = option(False, "print every network name with its size, and stop")
    markdown: bool = option(False, "print --list_models as a Markdown table of backbones")
    separable_conv: bool = option(False, "depthwise separable convolutions in ASPP and decoder")
    output_stride: int | None = option(
        None, "output stride of the backbone (default: 16; HRNet: always 4)", choices=(8, 16, 32)
    )
    aspp_rates: tuple[int, int, int] | None = option(
        None, "atrous rates of ASPP instead of the output stride's own", nargs=3, minimum=1
    )
    pretrained: str | None = option(
        None,
        "backbone weights to start from: imagenet (fetched once by name), none, or a FILE "
        "(default: imagenet where --list_models shows published weights, else none)",
        metavar="{imagenet,none,FILE}",
    )
    bn_momentum: float | None = option(
        None,
        "BatchNorm momentum of the backbone (default: 0.01 with pretrained weights or --ckpt, "
        "0.1 from scratch)",
        minimum=0.0,
    )
    ckpt: str | None = option(None, "checkpoint to start from, to test, or to continue")
    finetune: bool = option(
        False, "of --ckpt load all but the final classifier: for other classes than it has"
    )


@dataclass(frozen=True)
class OptimOptions:
    """Optimisation"""

    total_itrs: int = option(30_000, "training steps", minimum=1)
    lr: float = option(0.01, "learning rate of the head", minimum=0.0)
    backbone_lr_mult: float = option(0.1, "the backbone's learning rate over --lr", minimum=0.0)
    optimizer: str = option("sgd", "sgd has momentum 0.9", choices=("sgd", "adamw"))
    weight_decay: float = option(1e-4, "weight decay", minimum=0.0)
    lr_policy: str = option("poly", "learning rate policy", choices=("poly", "step"))
    step_size: int = option(10_000, "steps after which --lr_policy step divides by 10", minimum=1)
    warmup_itrs: int = option(0, "steps of linear learning-rate warm-up", minimum=0)
    loss_type: str = option(
        "cross_entropy", "loss function", choices=("cross_entropy", "focal_loss")
    )
    focal_gamma: float = option(
        2.0, "focusing of focal_loss; the predecessor's 0 is cross entropy", minimum=0.0
    )
    focal_alpha: float = option(1.0, "factor of focal_loss", minimum=0.0)
    class_weights: str = option(
        "none",
        "loss weight of each class: none, or a FILE with a line `weight  class name` a class",
        metavar="{none,FILE}",
    )
    precision: str = option(
        "fp32", "arithmetic of the network: fp32, or bf16 autocast", choices=("fp32", "bf16")
    )


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    test_only: bool = option(False, "validate --ckpt and stop")
    continue_training: bool = option(
        False, "go on exactly where --ckpt (default: the run's latest checkpoint) stopped"
    )
    output_dir: str = option("checkpoints", "where checkpoints and the run's folder go")
    overwrite: bool = option(False, "replace an earlier run of the same name")
    save_val_results: bool = option(
        False, "save image, target, prediction and overlay of every validation image"
    )
    save_interval: int | None = option(
        None, "steps between saves of the latest checkpoint (default: --val_interval)", minimum=1
    )
    print_interval: int = option(10, "steps between reports of the loss", minimum=1)
    val_interval: int = option(100, "steps between validations", minimum=1)
    random_seed: int = option(1, "seed of weights, data order and augmentation", minimum=0)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    gpu_id: str = option("0", "which GPU; for several, start main.py with torchrun")


@dataclass(frozen=True)
class VisOptions:
    """Dashboard"""

    enable_vis: bool = option(False, "show the run in a Visdom server")
    vis_port: int = option(13570, "port of the Visdom server", minimum=1)
    vis_env: str = option("main", "Visdom environment")
    vis_num_samples: int = option(8, "validation images shown", minimum=0)


@dataclass(frozen=True)
class Options:
    """Everything `main.py` was told."""

    data: DataOptions
    model: ModelOptions
    optim: OptimOptions
    run: RunOptions
    vis: VisOptions


@dataclass(frozen=True)
class PredictOptions:
    """Prediction"""

    input: str = option("", "an image, or a folder that is searched recursively")
    ckpt: str = option("", "checkpoint of main.py, or of the predecessor with its flags below")
    output: str = option("results", "folder for the masks; files there are never replaced")
    overlay: bool = option(False, "also save <name>_overlay.jpg, the mask blended over the image")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    gpu_id: str = option("0", "which GPU")
    precision: str = option("fp32", "arithmetic of the network", choices=("fp32", "bf16"))
    crop_val: bool = option(
        False, "resize the shorter side to --crop_size and predict its centre crop only"
    )
    crop_size: int = option(513, "side of the crop of --crop_val, pixels", minimum=33)


@dataclass(frozen=True)
class PredecessorOptions:
    """The predecessor's flags, needed for its checkpoints only: ours say all this themselves"""

    model: str | None = option(None, "network name")
    dataset: str | None = option(
        None, "data set it was trained on: names and colours", choices=("voc", "cityscapes")
    )
    separable_conv: bool = option(False, "the network has separable convolutions")
    output_stride: int | None = option(None, "output stride", choices=(8, 16, 32))
    save_val_results_to: str | None = option(
        None, "as --output, but files there are replaced, as the predecessor did"
    )
    val_batch_size: int = option(1, "accepted; images are predicted one by one", minimum=1)


def parse_main(argv: Sequence[str] | None = None) -> Options:
    """Options of `main.py`; exits with 2 and one line on stderr where they make no sense."""
    groups = get_type_hints(Options)
    description = "Train, validate and test DeepLabV3 and DeepLabV3+."
    return Options(**parse(groups, prog="main.py", description=description, argv=argv))


def parse_predict(
    argv: Sequence[str] | None = None,
) -> tuple[PredictOptions, PredecessorOptions]:
    """Options of `predict.py`."""
    groups = {"predict": PredictOptions, "predecessor": PredecessorOptions}
    description = "Segment images with a trained network."
    parsed = parse(groups, prog="predict.py", description=description, argv=argv)
    return parsed["predict"], parsed["predecessor"]


def flat(options: Options) -> dict[str, Any]:
    """Every option by flag name, as plain values: for records and comparison."""
    return {
        name: _plain(value)
        for group in dataclasses.asdict(options).values()
        for name, value in group.items()
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as the user could type it again."""
    return shlex.join(["python", "main.py", *(sys.argv[1:] if argv is None else argv)])


# Options that do something only where another has this value.
ONLY_WITH = {
    "markdown": ("list_models", True),
    "year": ("dataset", "voc"),
    "download": ("dataset", "voc"),
    "step_size": ("lr_policy", "step"),
    "focal_gamma": ("loss_type", "focal_loss"),
    "focal_alpha": ("loss_type", "focal_loss"),
    "vis_port": ("enable_vis", True),
    "vis_env": ("enable_vis", True),
}


# Options that do nothing beside another one.
NOT_WITH = {
    "pretrained": ("ckpt", "continue_training"),
    "overwrite": ("test_only",),
    "continue_training": ("test_only",),
}


def without_effect(options: Options) -> list[str]:
    """A line for each option that was given but does nothing beside the others."""
    now = flat(options)
    defaults = {
        field.name: field.default
        for group in get_type_hints(Options).values()
        for field in dataclasses.fields(group)
    }
    given = {name for name, value in now.items() if value != _plain(defaults[name])}
    lines = [
        f"--{name} has no effect without --{other}" + ("" if value is True else f" {value}")
        for name, (other, value) in ONLY_WITH.items()
        if name in given and now[other] != value
    ]
    return lines + [
        f"--{name} has no effect with --{other}"
        for name, others in NOT_WITH.items()
        for other in others
        if {name, other} <= given
    ]


def torchrun_command(command: str, gpu_ids: str) -> str:
    """``command`` started with torchrun, one process for each of ``gpu_ids`` (as in "0,1")."""
    arguments = re.sub(r"\s--gpu_id(=|\s+)\S+", "", command).removeprefix("python ")
    return f"torchrun --nproc_per_node {gpu_ids.count(',') + 1} {arguments}"
