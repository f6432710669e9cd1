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
BatchNorm = nn.BatchNorm2d | nn.SyncBatchNorm
PROBE_SIDE = 64  # pixels of the image that shows which layer follows which


def folded(model: Model, *, conv_dtype: torch.dtype | None = None) -> Model:
    """A channels_last copy in eval mode in which BatchNorm is part of the convolution before it.

    A BatchNorm stays where its input does not come from a convolution, or where something else
    reads that output too. With `conv_dtype` the weights of convolutions are kept in that type;
    autocast would otherwise cast them at every call. `model` is not changed.
    """
    with torch.inference_mode(False), torch.no_grad():
        # The copy shares its parameters at first: most of them are replaced below.
        shared = {id(tensor): tensor for tensor in model.parameters()}
        model = copy.deepcopy(model, dict(shared)).eval()
        names = {module: name for name, module in model.named_modules()}
        for conv, bn in _pairs(model):
            mean, var = bn.running_mean, bn.running_var
            if mean is None or var is None:
                continue  # normalized by the batch itself
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, bn.eps, bn.weight, bn.bias
            )
            model.set_submodule(names[bn], nn.Identity())
        for layer in model.modules():
            dtype = conv_dtype if isinstance(layer, nn.Conv2d) else None
            for name, tensor in list(layer.named_parameters(recurse=False)):
                layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
                own = tensor.to(dtype=dtype, memory_format=layout, copy=id(tensor) in shared)
                setattr(layer, name, nn.Parameter(own, requires_grad=False))
        return model


def _pairs(model: nn.Module) -> list[tuple[nn.Conv2d, BatchNorm]]:
    """Each convolution whose output only a BatchNorm reads, with that BatchNorm.

    The order of the layers stands in the code of many `forward` methods, so it is found by a trial:
    a small image goes through, and autograd's record shows which call made what, and who reads it.
    """
    made_by: dict[Node | None, nn.Conv2d] = {}
    found: list[tuple[Node | None, BatchNorm]] = []
    calls: Counter[nn.Module] = Counter()

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[layer] += 1
        if isinstance(layer, nn.Conv2d):
            made_by[output.grad_fn] = layer
        elif isinstance(layer, BatchNorm) and inputs[0].grad_fn in made_by:
            found.append((inputs[0].grad_fn, layer))

    layers = [x for x in model.modules() if isinstance(x, nn.Conv2d | BatchNorm)]
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


def _readers(last: Node | None) -> Counter[Node | None]:
    """How many steps on the way to `last` read the result of each step."""
    readers: Counter[Node | None] = Counter()
    waiting = [last] if last else []
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                readers[node] += 1
                if readers[node] == 1:
                    waiting.append(node)
    return readers
