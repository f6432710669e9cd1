"""A copy of a network for inference, with its BatchNorm folded into the convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

Model = TypeVar("Model", bound=nn.Module)
PROBE_SIDE = 64  # pixels of the image that shows which layer follows which


def folded(model: Model, *, conv_dtype: torch.dtype | None = None) -> Model:
    """A channels_last copy in eval mode in which BatchNorm is part of the convolution before it.

    A BatchNorm whose input is not the output of a convolution, or of one that something else reads
    too, stays. With ``conv_dtype`` the convolutions' weights are kept in that type: what autocast
    would otherwise cast anew at every call. ``model`` is not changed.
    """
    with torch.inference_mode(False), torch.no_grad():
        # The copy first shares its parameters: most are about to be replaced.
        shared = {id(tensor): tensor for tensor in model.parameters()}
        model = copy.deepcopy(model, dict(shared)).eval()
        names = {module: name for name, module in model.named_modules()}
        for conv, bn in _pairs(model):
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                bn.running_mean,
                bn.running_var,
                bn.eps,
                bn.weight,
                bn.bias,
            )
            model.set_submodule(names[bn], nn.Identity())
        for layer in model.modules():
            dtype = conv_dtype if isinstance(layer, nn.Conv2d) else None
            for name, tensor in list(layer.named_parameters(recurse=False)):
                layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
                own = tensor.to(dtype=dtype, memory_format=layout, copy=id(tensor) in shared)
                setattr(layer, name, nn.Parameter(own, requires_grad=False))
        return model


def _pairs(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the BatchNorm that alone reads their output.

    Layers are called by name in many a forward, so the order is seen by doing: one small image goes
    through, and autograd's record says which call made what, and who reads it.
    """
    made_by: dict[Node, nn.Conv2d] = {}
    found: list[tuple[Node, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[layer] += 1
        if isinstance(layer, nn.Conv2d):
            made_by[output.grad_fn] = layer
        elif inputs[0].grad_fn in made_by and layer.running_mean is not None:
            found.append((inputs[0].grad_fn, layer))

    kinds = nn.Conv2d | nn.BatchNorm2d | nn.SyncBatchNorm
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        like = next(model.parameters())
        probe = like.new_zeros(1, 3, PROBE_SIDE, PROBE_SIDE).requires_grad_()
        with torch.enable_grad():
            readers = _readers(model(probe).grad_fn)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (made_by[node], bn)
        for node, bn in found
        if readers[node] == calls[bn] == calls[made_by[node]] == 1
    ]


def _readers(last: Node) -> Counter[Node]:
    """How often each step's result is read on the way to ``last``."""
    readers: Counter[Node] = Counter()
    waiting = [last]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                readers[node] += 1
                if readers[node] == 1:
                    waiting.append(node)
    return readers
