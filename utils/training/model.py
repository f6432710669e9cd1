"""The network of a run: how it is built, which weights it starts from, which layers learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import network
from utils import options
from utils.runtime.distributed import World
from utils.training.start import StartPoint
from utils.utils import fix_bn, set_bn_momentum

# What to do about a checkpoint with another number of classes.
FINETUNE_HINT = "--finetune loads everything but the final classifier"
DATA_HINT = "give the --dataset or --num_classes it was trained with"


def build_model(opts: options.Options, *, num_classes: int, start: StartPoint) -> network.DeepLabV3:
    """The network, with the checkpoint's weights if the run starts from one.

    A run that continues gets the weights that training continues from; any other run gets the
    checkpoint's averaged weights, if there are any.
    """
    if start.saved:
        model = _from_checkpoint(opts, num_classes=num_classes, start=start)
    else:
        network.pretrained.check_pretrained(opts.model.model, opts.model.pretrained)
        model = _create(opts, num_classes=num_classes, start=start, built={})
    set_bn_momentum(model.backbone, momentum=backbone_bn_momentum(opts.model, start=start))
    model.backbone.recomputes = opts.optim.activation_checkpointing
    return model


def _from_checkpoint(
    opts: options.Options, *, num_classes: int, start: StartPoint
) -> network.DeepLabV3:
    saved, name = start.saved, opts.model.model
    if saved.get("model_name", name) != name:
        raise ValueError(f"{start.ckpt} holds {saved['model_name']}, not --model {name}")
    source = str(start.ckpt)
    state = network.pretrained.state_of(saved, source=source, averaged=not start.resumes)
    if start.resumes:
        _check_aux_head(state, aux_head=opts.optim.aux_loss > 0, source=source)
    # Our files say how the network was built; the predecessor's are recognized.
    built = saved.get("build_args") or network.pretrained.predecessor_build_args(name, state)
    model = _create(opts, num_classes=num_classes, start=start, built=built)
    hint = DATA_HINT if start.resumes or opts.run.test_only else FINETUNE_HINT
    network.pretrained.load_model_state(
        model, state, source=source, finetune=opts.model.finetune, classes_hint=hint
    )
    model.set_normalization(saved.get("mean", model.mean), saved.get("std", model.std))
    averaged = network.pretrained.has_average(saved) and not start.resumes
    what = "averaged weights" if averaged else "weights"
    if opts.model.finetune:
        what = f"all {what} but the final classifier's"
    start.notes.append(f"{what} from {start.ckpt}{_remarks(model, state)}")
    origin = network.pretrained.origin_line(name, state)
    if origin and "model_name" not in saved:
        start.notes.append(origin)
    return model


def _check_aux_head(state: Mapping[str, Tensor], *, aux_head: bool, source: str) -> None:
    """Raise ValueError if a run would continue with an auxiliary head and began without, or so."""
    had = network.pretrained.has_aux_head(state)
    if had != aux_head:
        raise ValueError(
            f"{source} was trained with{'' if had else 'out'} --aux_loss; to continue it, "
            + ("give --aux_loss too" if had else "leave out --aux_loss")
        )


def _remarks(model: network.DeepLabV3, state: Mapping[str, Tensor]) -> str:
    """What else the user should know; it follows "weights from FILE"."""
    rates = model.build_args["aspp_rates"]
    remarks = f", ASPP rates {' '.join(map(str, rates))}" if rates else ""
    if model.aux_classifier is not None and not network.pretrained.has_aux_head(state):
        remarks += "; it has no auxiliary head, so that one starts from random weights"
    return remarks


def _create(
    opts: options.Options, *, num_classes: int, start: StartPoint, built: Mapping[str, Any]
) -> network.DeepLabV3:
    """The network with random weights; `built` says how that of the checkpoint was built."""
    asked = opts.model
    return network.create_model(
        asked.model,
        num_classes=num_classes,
        output_stride=start.output_stride,
        separable_conv=asked.separable_conv or built.get("separable_conv", False),
        aspp_rates=asked.aspp_rates or built.get("aspp_rates"),
        backbone_args=built.get("backbone_args"),
        aux_head=opts.optim.aux_loss > 0 and not opts.run.test_only,
    )


def load_backbone_weights(
    model: network.DeepLabV3, asked: str | None, *, start: StartPoint, world: World
) -> None:
    """Give the backbone the weights of --pretrained, unless the run starts from a checkpoint."""
    if start.saved:
        return
    default = network.default_weights(model.name)
    wanted = asked or default
    if wanted != "none":
        # The main process fetches them; then the others find them in the cache.
        load = network.pretrained.load_pretrained
        start.notes.extend(world.main_first(lambda: load(model, wanted)))
    elif default == "none":
        start.notes.append(
            "random weights: nobody has published weights for this backbone; --pretrained FILE "
            "loads a file"
        )
    else:
        start.notes.append("random weights: --pretrained imagenet starts from ImageNet's")


def backbone_bn_momentum(asked: options.ModelOptions, *, start: StartPoint) -> float:
    """The momentum of the backbone's BatchNorm.

    0.01 suits statistics that are good from the start. From scratch they would lag far behind.
    """
    if asked.bn_momentum is not None:
        return asked.bn_momentum
    if start.resumes:
        return start.saved.get("bn_momentum", 0.01)
    pretrained = asked.pretrained or network.default_weights(asked.model)
    return 0.01 if start.saved or pretrained != "none" else 0.1


class TrainingNetwork(nn.Module):
    """The model as the loss wants it: low-resolution logits by name, without upsampling."""

    def __init__(self, model: network.DeepLabV3) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        return self.model.low_res_outputs(images)


def training_network(
    model: network.DeepLabV3, step: int, *, optim: options.OptimOptions, world: World
) -> nn.Module:
    """`model` for the steps from `step` on: in training mode, frozen, compiled, shared."""
    model.backbone.requires_grad_(step >= optim.freeze_backbone_itrs)
    train_mode(model, step, optim=optim)
    wrapped = TrainingNetwork(model)
    if optim.compile:
        wrapped.compile()
    return world.wrap(wrapped)


def train_mode(model: network.DeepLabV3, step: int, *, optim: options.OptimOptions) -> None:
    """Training mode, except for what --freeze_bn and --freeze_backbone_itrs keep as it is."""
    torch.backends.cudnn.benchmark = True  # all crops have one size
    model.train()
    if step < optim.freeze_backbone_itrs:
        model.backbone.eval()
    if optim.freeze_bn:
        fix_bn(model)
