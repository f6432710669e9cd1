"""All options, each declared once with everything that is known about it.

A function gets the group it needs, or plain values, never everything. Flags keep the names,
defaults and meanings of VainF/DeepLabV3Plus-Pytorch unless their help says otherwise. Which data
sets and which losses use an option is stated there: `DATASETS` and `LOSSES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from utils.loss import LOSSES
from utils.optimizer import OPTIMIZERS
from utils.options.declare import (
    DEVICE,
    FACTOR,
    FILE,
    FLIP,
    FOLDER,
    GPU,
    IMAGES,
    NAME,
    RATE,
    SCALE,
    SCALES,
    SHARE,
    SHARE_BELOW_1,
    STEPS,
    STEPS_OR_0,
    TILE,
    Value,
    option,
)
from utils.runtime.precision import AUTOCAST_DTYPES
from utils.scheduler import SCHEDULERS
from utils.visualizer import DEFAULT_PORT


@dataclass(frozen=True)
class ModelOptions:
    """Model"""

    model: str = option("deeplabv3plus_mobilenet", "name of the network, see --list_models", NAME)
    list_models: bool = option(
        False, "print all networks with their sizes, and stop", free_on_resume=True
    )
    separable_conv: bool = option(
        False, "depthwise separable convolutions in ASPP and decoder", kept_on_resume=True
    )
    output_stride: int | None = option(
        None,
        "output stride of the backbone (default: 16; HRNet: always 4)",
        choices=(8, 16, 32),
        kept_on_resume=True,
    )
    aspp_rates: tuple[int, int, int] | None = option(
        None,
        "atrous rates of ASPP (default: by the output stride)",
        Value("RATE", 1, 2048),  # the width of the largest crop at output stride 8
        kept_on_resume=True,
    )
    pretrained: str | None = option(
        None,
        "weights of the backbone: imagenet (downloaded once), none, or a file "
        "(default: imagenet where --list_models shows weights, else none)",
        Value("{imagenet,none,FILE}"),
        not_with=["ckpt", "continue_training"],
        starts_run=True,
    )
    bn_momentum: float | None = option(
        None,
        "BatchNorm momentum of the backbone (default: 0.1 from random weights, else 0.01)",
        SHARE,
        kept_on_resume=True,
    )
    ckpt: str | None = option(
        None, "checkpoint to start from, to test, or to continue", FILE, starts_run=True
    )
    finetune: bool = option(
        False, "load all of --ckpt but the final classifier: for other classes", starts_run=True
    )


@dataclass(frozen=True)
class OptimOptions:
    """Optimization"""

    total_itrs: int = option(30_000, "training steps", STEPS)
    lr: float = option(0.01, "learning rate of the head", RATE)
    backbone_lr_mult: float = option(
        0.1, "learning rate of the backbone, as a multiple of --lr", FACTOR
    )
    optimizer: str = option("sgd", "optimizer; sgd has momentum 0.9", choices=tuple(OPTIMIZERS))
    weight_decay: float = option(1e-4, "weight decay", FACTOR)
    no_decay_norm_bias: bool = option(False, "no weight decay on normalization layers and biases")
    clip_grad_norm: float | None = option(
        None,
        "clip gradients to this norm (default: 0, which does not clip)",
        Value("NORM", 0, 1e38),
    )
    grad_accumulation: int = option(
        1, "batches whose gradients are added for one step; --batch_size counts one batch", IMAGES
    )
    lr_policy: str = option("poly", "learning rate schedule", choices=SCHEDULERS)
    step_size: int = option(
        10_000, "divide the learning rate by 10 every N steps", STEPS, only_with="lr_policy step"
    )
    warmup_itrs: int = option(0, "steps of linear learning rate warm-up", STEPS_OR_0)
    loss_type: str = option(
        "cross_entropy",
        f"{', '.join(LOSSES)}, or a weighted sum such as cross_entropy:1,dice:0.5",
        Value("LOSS"),
    )
    label_smoothing: float = option(
        0.0, "share of the target that is spread over all classes", SHARE_BELOW_1
    )
    aux_loss: float = option(
        0.0,
        "weight of a second loss on the stage before the last; 0.4 is usual, 0 is none",
        Value("WEIGHT", 0, 1000),
    )
    focal_gamma: float = option(
        2.0, "exponent of the focal loss; 0, the predecessor's, gives cross entropy", FACTOR
    )
    focal_alpha: float = option(
        1.0, "factor of the focal loss", Value("FACTOR", 0, 1000, excluded=(0,))
    )
    class_weights: str = option(
        "none",
        "loss weight of each class: none, auto (median frequency, counted once), or a file with "
        "a line `WEIGHT CLASS` for each class",
        Value("{none,auto,FILE}"),
    )
    precision: str = option(
        "fp32",
        "arithmetic of the network; bf16 and fp16 are autocast, tf32 is for GPUs",
        choices=("fp32", "tf32", *AUTOCAST_DTYPES),
    )
    compile: bool = option(False, "compile the training network with torch.compile; for GPUs")
    activation_checkpointing: bool = option(
        False,
        "keep few maps of the backbone: less memory and the same result, for one more forward "
        "pass of the backbone in each step",
        free_on_resume=True,
    )
    ema: float = option(
        0.0,
        "decay of averaged weights, used to validate and predict; 0 does not average",
        SHARE_BELOW_1,
    )
    freeze_bn: bool = option(False, "keep all BatchNorm statistics as they are")
    freeze_backbone_itrs: int = option(0, "steps at the start that train only the head", STEPS_OR_0)
    max_bad_steps: int = option(
        10,
        "how many NaN or infinite losses in a row to skip before the run stops",
        STEPS_OR_0,
        free_on_resume=True,
    )
    early_stop: int | None = option(
        None,
        "stop after this many validations without a better mean IoU",
        STEPS,
        free_on_resume=True,
    )


@dataclass(frozen=True)
class RunOptions:
    """Run"""

    test_only: bool = option(False, "validate --ckpt, and stop", free_on_resume=True)
    continue_training: bool = option(
        False,
        "continue exactly where --ckpt stopped (default: the latest checkpoint of the run)",
        not_with=["test_only"],
        starts_run=True,
    )
    output_dir: str = option("checkpoints", "folder for all runs", FOLDER, free_on_resume=True)
    overwrite: bool = option(
        False, "delete an earlier run of the same name", not_with=["test_only"], starts_run=True
    )
    save_val_results: bool = option(
        False, "save every validation image with label and prediction", free_on_resume=True
    )
    save_interval: int | None = option(
        None,
        "steps between saved checkpoints (default: --val_interval)",
        STEPS,
        free_on_resume=True,
    )
    keep_checkpoints: int = option(
        2, "latest checkpoints to keep, in case one is damaged", IMAGES, free_on_resume=True
    )
    print_interval: int = option(10, "steps between printed lines", STEPS, free_on_resume=True)
    val_interval: int = option(100, "steps between validations", STEPS, free_on_resume=True)
    val_tile: int | None = option(
        None, "side of the tiles in which to validate, to save memory", TILE, free_on_resume=True
    )
    flip: bool = option(False, FLIP, only_with="test_only", free_on_resume=True)
    scales: tuple[float, ...] = option(
        (1.0,), SCALES, SCALE, only_with="test_only", free_on_resume=True
    )
    random_seed: int = option(
        1,
        "seed of weights, data order and augmentation",
        Value("N", 0, 2**32 - 1),  # as in NumPy
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", DEVICE, free_on_resume=True)
    gpu_id: str = option(
        "0", "which GPU; for several, start main.py with torchrun", GPU, free_on_resume=True
    )


@dataclass(frozen=True)
class VisOptions:
    """Dashboard"""

    enable_vis: bool = option(False, "show the run in a Visdom server", free_on_resume=True)
    vis_port: int = option(
        DEFAULT_PORT,
        "port of the Visdom server",
        Value("N", 1, 65_535),
        only_with="enable_vis",
        free_on_resume=True,
    )
    vis_env: str | None = option(
        None, "Visdom environment (default: new)", NAME, only_with="enable_vis", free_on_resume=True
    )
    tensorboard: bool = option(False, "also write events for TensorBoard", free_on_resume=True)
    vis_num_samples: int = option(
        8, "validation images to show", Value("N", 0, 65_536), free_on_resume=True
    )
