"""Activation checkpointing: memory for time (Chen et al. 2016, arXiv:1604.06174).

The backward pass needs the maps of all layers. Here the forward pass keeps only the input of each
block of a backbone. The backward pass computes the other maps of a block again when it gets there,
with the same random numbers and the same precision. So the gradients are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(layers: Iterable[nn.Module]) -> list[Callable[[Any], Any]]:
    """The same layers in parts that each recompute: a block, and the single layers before it."""
    parts: list[list[nn.Module]] = [[]]
    for layer in _opened(layers):
        parts[-1].append(layer)
        if any(True for _ in layer.children()):
            parts.append([])
    return [partial(_recompute, part) for part in parts if part]


def _opened(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers, with those of a plain `nn.Sequential` in its place."""
    for layer in layers:
        if type(layer) is nn.Sequential:
            yield from _opened(layer)
        else:
            yield layer


def _recompute(layers: list[nn.Module], x: Any) -> Any:
    """The layers' output, of whose way only `x` is kept."""
    if torch.compiler.is_compiling():  # it counts a batch only once by itself
        return checkpoint(_run, layers, x, use_reentrant=False)
    return checkpoint(
        _run,
        layers,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_unchanged(layers)),
    )


def _run(layers: list[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


@contextmanager
def _statistics_unchanged(layers: list[nn.Module]) -> Iterator[None]:
    """Inside, BatchNorm normalizes as ever, but does not count the batch a second time."""
    norms = [x for layer in layers for x in layer.modules() if isinstance(x, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
