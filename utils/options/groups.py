"""The command line, declared once: frozen dataclasses from which the parsers are generated.

A function gets the group it needs, or plain values, never everything. Flags keep the names,
defaults and meanings of VainF/DeepLabV3Plus-Pytorch unless their help says otherwise. Argument
files: ``python main.py @recipes/NAME.txt --lr 0.02`` (one or more flags a line, ``#`` comments).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from .parser import option, parse


@dataclass(frozen=True)
class DataOptions:
    """Data"""

    data_root: str = option("./datasets/data", "folder of the data set")
    dataset: str = option(
        "voc",
        "which data set; folder is your own, shapes needs no files",
        choices=("voc", "cityscapes", "folder", "shapes"),
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
    train_split: str = option(
        "train",
        "what to train on: trainval is train and val, train_extra is Cityscapes' coarse images",
        choices=("train", "trainval", "train_extra"),
    )
    val_fraction: float = option(
        0.1, "share of a folder without split folders that validates", minimum=0.0
    )
    split_file: str | None = option(
        None, "FILE with a line `train|val|test name` an image, for a folder without split folders"
    )
    cache: str | None = option(
        None, "folder that keeps decoded images and labels (Cityscapes: 25 GB), shared by runs"
    )
    check_data: bool = option(
        False, "read every file, print a table of what is in them, and stop; 1 if it is no good"
    )
    skip_bad_files: bool = option(False, "go on without files that can't be read, and say how many")
    crop_size: int = option(513, "side of the square training crop, pixels", minimum=33)
    crop_val: bool = option(
        False,
        "validate on centre crops of --crop_size after resizing the shorter side to it; "
        "not comparable with published numbers. Without it: whole images",
    )
    scale_range: tuple[float, float] = option(
        (0.5, 2.0), "random scale of training images, from and to", nargs=2, minimum=0.05
    )
    cat_max_ratio: float = option(
        1.0, "redraw a crop while one class fills more of it than this share", minimum=0.0
    )
    batch_size: int = option(16, "training images at a time, all processes together", minimum=1)
    val_batch_size: int | None = option(
        None, "validation images per step (default: 4 with --crop_val, else 1)", minimum=1
    )
    num_workers: int | None = option(
        None,
        "loader processes of each process; 0 loads in the process itself (default: by its cores)",
        minimum=0,
    )


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
    no_decay_norm_bias: bool = option(False, "no weight decay on normalisation and biases")
    clip_grad_norm: float | None = option(
        None, "largest norm of a step's gradients (0, as the default: no clipping)", minimum=0.0
    )
    grad_accumulation: int = option(
        1, "batches whose gradients are added for one step; --batch_size counts one", minimum=1
    )
    lr_policy: str = option("poly", "learning rate policy", choices=("poly", "step", "cosine"))
    step_size: int = option(10_000, "steps after which --lr_policy step divides by 10", minimum=1)
    warmup_itrs: int = option(0, "steps of linear learning-rate warm-up", minimum=0)
    loss_type: str = option(
        "cross_entropy",
        "cross_entropy, focal_loss, ohem, dice, lovasz, or a mix: cross_entropy:1,dice:0.5",
    )
    label_smoothing: float = option(
        0.0, "share of the target spread over all classes (cross_entropy, ohem)", minimum=0.0
    )
    aux_loss: float = option(
        0.0, "weight of a second loss on the stage before last; 0 is none, 0.4 usual", minimum=0.0
    )
    focal_gamma: float = option(
        2.0, "focusing of focal_loss; the predecessor's 0 is cross entropy", minimum=0.0
    )
    focal_alpha: float = option(1.0, "factor of focal_loss", minimum=0.0)
    class_weights: str = option(
        "none",
        "loss weight of each class: none, auto (median frequency, counted once), or a FILE with a "
        "line `weight  class name` a class",
        metavar="{none,auto,FILE}",
    )
    precision: str = option(
        "fp32",
        "arithmetic of the network; bf16 and fp16 are autocast, tf32 is for GPUs",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )
    compile: bool = option(False, "compile the training network with torch.compile; for GPUs")
    ema: float = option(
        0.0,
        "decay of averaged weights, which then are validated and predicted with; 0 is none",
        minimum=0.0,
    )
    freeze_bn: bool = option(False, "keep all BatchNorm statistics as they are")
    freeze_backbone_itrs: int = option(0, "steps at the start that train the head alone", minimum=0)
    max_bad_steps: int = option(
        10, "NaN or infinite losses in a row that are skipped before the run stops", minimum=0
    )
    early_stop: int | None = option(
        None, "stop after so many validations without a better mean IoU", minimum=1
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
    keep_checkpoints: int = option(
        2,
        "how many latest checkpoints to keep; an older one stands in for a damaged one",
        minimum=1,
    )
    print_interval: int = option(10, "steps between reports of the loss", minimum=1)
    val_interval: int = option(100, "steps between validations", minimum=1)
    val_tile: int | None = option(
        None,
        "validate in overlapping tiles of this side, where whole images do not fit",
        minimum=64,
    )
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
    precision: str = option("fp32", "arithmetic of the network", choices=("fp32", "bf16", "fp16"))
    crop_val: bool = option(
        False, "resize the shorter side to --crop_size and predict its centre crop only"
    )
    crop_size: int = option(513, "side of the crop of --crop_val, pixels", minimum=33)
    val_tile: int | None = option(
        None, "predict in overlapping tiles of this side, where whole images do not fit", minimum=64
    )


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
