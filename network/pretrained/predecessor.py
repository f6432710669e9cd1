"""What checkpoints of VainF/DeepLabV3Plus-Pytorch need, which do not say how they were trained."""

from __future__ import annotations

from typing import Any

from .._deeplab import DeepLabV3
from ..backbone import BACKBONES
from ..factory import model_parts
from ..metadata import NOTE, PREDECESSOR, noted_args
from .checkpoint import State
from .contents import metadata_of
from .tensors import is_separable, num_classes_of

MISBUILT = (
    f"{PREDECESSOR} gave deeplabv3_hrnetv2 as many classes as its --output_stride, by mistake; "
    "they are taken for the first classes of the data set"
)


def predecessor_build_args(name: str, state: State) -> dict[str, Any]:
    """How to build `name` so that a checkpoint of the predecessor predicts what it did there.

    The tensors show the number of classes and separable convolutions. Its MobileNetV2 and HRNet
    compute something else with the same tensors; where nothing says whose they are, they count as
    the predecessor's. Its files do not state output stride and ASPP rates.
    """
    network = BACKBONES[model_parts(name).backbone].network
    noted = noted_args(metadata_of(state), network)
    args: dict[str, Any] = {
        "separable_conv": is_separable(state),
        "backbone_args": dict(network.predecessor_args if noted is None else noted),
    }
    if num_classes := num_classes_of(state):
        args["num_classes"] = num_classes
    return args


def origin_line(name: str, state: State) -> str | None:
    """One line on what was taken for weights of the predecessor; None for others."""
    args = dict(BACKBONES[model_parts(name).backbone].network.predecessor_args)
    metadata = metadata_of(state).get("", {})
    if not args or predecessor_build_args(name, state)["backbone_args"] != args or NOTE in metadata:
        return None
    if metadata:
        return f"weights of {PREDECESSOR}: {name} computes with backbone_args={args}, as there"
    return (
        f"the weights do not say how they were trained; assumed: backbone_args={args}, as in "
        f"{PREDECESSOR}; for others, load them by load_state_dict into a model from create_model"
    )


def is_misbuilt(model: DeepLabV3) -> bool:
    """Whether a network of the predecessor has the classes that its mistake gave it: `MISBUILT`."""
    strides = BACKBONES["resnet18"].network.output_strides
    is_hrnet = model.name.startswith("deeplabv3_hrnetv2_")
    return is_hrnet and model.build_args["num_classes"] in (4, *strides)
