"""What a checkpoint file of this program holds: the one place where its keys are spelled."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor

from .._deeplab import BuildArgs

State = dict[str, Tensor]
FORMAT = 1  # rises when an older program could misread the file


class RngState(TypedDict):
    """The random generators of one process, from which dropout draws."""

    cpu: Tensor
    cuda: list[Tensor]  # one for each GPU the process sees


class Checkpoint(TypedDict, total=False):
    """The content of a checkpoint file, as `torch.save` writes it: tensors and plain values only.

    Every file that training writes has all keys, but for the two of the average. A checkpoint of
    VainF/DeepLabV3Plus-Pytorch has `model_state`, `optimizer_state`, `scheduler_state`, `cur_itrs`
    and `best_score` alone; a file of weights has none of them. `definition.check` says what values
    they may have.
    """

    # The model: enough to build it and to predict with it.
    format: int  # `FORMAT` of the program that wrote the file
    model_name: str  # one of `network.list_models()`
    build_args: BuildArgs  # how to build that model
    class_names: list[str]  # one for each output
    palette: Tensor  # uint8 (256,3): the RGB color of each class
    mean: list[float]  # RGB, of values in 0..1: what the input is normalized with
    std: list[float]
    model_state: State  # the weights that training goes on from
    ema_state: State  # the weights averaged over training (--ema): predict with these, if present
    # Training: what --continue_training goes on from.
    ema_updates: int  # steps the average has seen
    optimizer_state: dict[str, Any]
    scheduler_state: dict[str, Any]
    scaler_state: dict[str, Any]  # of the fp16 gradient scaler; empty with any other precision
    cur_itrs: int  # steps done
    best_score: float  # the highest validation score so far
    best_itrs: int  # the step of that score
    num_worse: int  # validations since then
    validation_due: bool  # the file was written before the validation of its step
    bn_momentum: float  # of the backbone's BatchNorm
    class_weights: list[float] | None  # of the loss; None: all classes weigh the same
    rng: list[RngState]  # one for each process
    num_threads: int  # of torch on the CPU: another number rounds sums differently
    num_train: int  # images in the training set
    # For the record, and to name what changed when a run goes on.
    options: dict[str, Any]  # the command-line options by name
    command: str  # the command line
