"""The network of a checkpoint, ours or the predecessor's, with class names and colors."""

from __future__ import annotations

import datasets
import network
from utils import options
from utils.runtime.console import say

MAX_CLASSES = 256  # ids in an 8-bit picture


def load_model(ckpt: str, old: options.PredecessorOptions) -> tuple[network.DeepLabV3, bool]:
    """The network of a checkpoint, and whether its weights were averaged over training.

    It has class names and a palette; for a checkpoint of the predecessor, those of `--dataset`.
    """
    content = network.pretrained.read_file(ckpt)
    is_ours = "model_name" in content
    if is_ours and old.model not in (None, content["model_name"]):
        raise ValueError(f"{ckpt} holds {content['model_name']}, not --model {old.model}")
    model = network.pretrained.rebuild(
        content,
        source=ckpt,
        name=old.model or (None if is_ours else "deeplabv3plus_mobilenet"),
        output_stride=old.output_stride,
    )
    num_classes = model.build_args["num_classes"]
    if num_classes > MAX_CLASSES:
        raise ValueError(f"{ckpt} has {num_classes} classes; masks hold at most {MAX_CLASSES}")
    if is_ours:
        if old.separable_conv and not model.build_args["separable_conv"]:
            raise ValueError(f"{ckpt} has no separable convolutions; drop --separable_conv")
        return model, network.pretrained.has_average(content)
    dataset = old.dataset or "voc"
    facts = datasets.DATASETS[dataset].facts
    if network.pretrained.is_misbuilt(model):
        say(network.pretrained.MISBUILT)
    elif num_classes != len(facts.class_names):
        raise ValueError(
            f"{ckpt} has {num_classes} classes, but --dataset {dataset} has "
            f"{len(facts.class_names)}; give the --dataset that it was trained on"
        )
    model.class_names, model.palette = facts.class_names[:num_classes], facts.palette
    return model, network.pretrained.has_average(content)
