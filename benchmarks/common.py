"""How long a step takes, what memory it needs, and what the hardware would allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.evaluate import resident_mib


class Roofline(TorchDispatchMode):
    """The least time a device with these ceilings needs for the operations it is told of.

    Each reads its inputs and writes its outputs once, and takes the longer of what its bytes and
    its FLOPs need. `counts` has "flops" (of convolutions), "bytes", and the seconds of "all" and of
    "conv", where all else is as good as fused to the convolutions.
    """

    def __init__(self, flops_per_s: float, bytes_per_s: float) -> None:
        super().__init__()
        self.flops_per_s, self.bytes_per_s = flops_per_s, bytes_per_s
        self.counts = dict.fromkeys(("flops", "bytes", "all", "conv"), 0.0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = 0 if _moves_nothing(func) else _num_bytes((args, kwargs)) + _num_bytes(result)
        flops = conv_flops(func, args, result)
        seconds = max(moved / self.bytes_per_s, flops / self.flops_per_s)
        for name, value in (("flops", flops), ("bytes", moved), ("all", seconds)):
            self.counts[name] += value
        self.counts["conv"] += seconds if flops else 0.0
        return result


def _moves_nothing(func: Any) -> bool:
    """Views, and what only takes memory."""
    name = func._schema.name.split("::")[1]
    return func.is_view or name.startswith(("empty", "new_empty", "detach", "_unsafe_view"))


def _num_bytes(values: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def conv_flops(func: Any, args: tuple, result: Any) -> int:
    """Of a convolution or its backward pass, by its arguments; of anything else 0.

    Each output of the forward pass costs a multiply-add a weight of its filter, and so does each
    of the two gradients; none of the networks has a transposed convolution.
    """
    aten = torch.ops.aten
    if func is aten.convolution.default:
        return 2 * result.numel() * args[1][0].numel()
    if func is aten.convolution_backward.default:
        output_gradient, _, weight, *_, output_mask = args
        return 2 * output_gradient.numel() * weight[0].numel() * sum(output_mask[:2])
    return 0


def ceilings(device_name: str, *, quick: bool = False) -> dict[str, float]:
    """FLOP/s in bf16, of a matmul or a convolution, and bytes/s of a copy; best of some runs."""
    device = torch.device(device_name)
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    side, height, copied = (8192, 192, 2**30) if on_gpu else (1024, 32, 2**26)
    if quick:
        side, height, copied = 64, 4, 2**16
    bf16: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    a, b = torch.randn(2, side, side, **bf16)
    images = torch.randn(8, 256, height, height, **bf16)
    conv = nn.Conv2d(256, 256, 3, padding=1, bias=False, **bf16)
    conv = conv.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    with torch.no_grad():
        matmul = 2 * side**3 / best_seconds(lambda: a @ b, device)
        macs = images.numel() * conv.weight[0].numel()  # as many outputs as inputs
        conv_speed = 2 * macs / best_seconds(lambda: conv(images), device)
        copy = 2 * copied / best_seconds(lambda: target.copy_(source), device)
    return {"matmul": matmul, "conv": conv_speed, "bytes_per_s": copy}


def best_seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Of one call; on a GPU ten are made at a time."""
    return min(timed(function, device, calls=10 if device.type == "cuda" else 1) for _ in range(6))


def timed(function: Callable[[], Any], device: torch.device, *, calls: int) -> float:
    """Seconds of one of `calls` calls, the device's work included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.perf_counter() - begin) / calls


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """ "mib" is the peak within, allocated on a GPU, else resident; "rise" that above the start."""
    result: dict[str, float] = {}
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident_mib(reset_peak=True)
    yield result
    result["mib"] = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident_mib("VmHWM")
    result["rise"] = result["mib"] - before


def ratio_cell(base: list[float], own: list[float]) -> str:
    """How many times as fast as `base`: median of the rounds' ratios with its 95 % interval."""
    ratios = np.array(base) / np.array(own)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"
