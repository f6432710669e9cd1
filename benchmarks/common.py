"""The training steps train_step.py compares, and what the hardware would allow them.

A contender is named by words: who ("predecessor", "ours", "smp", "torchvision", "recipe"), the
precision ("fp32", "bf16"), and perhaps "channels_last", "compiled", "plain-loss" or "recomputed".
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import main
import network
from benchmarks.evaluate import resident_mib
from benchmarks.workers import convolve_upsampled
from utils import options
from utils.runtime.precision import autocast
from utils.training.model import training_network
from utils.training.prepare import prepare
from utils.training.run import Run

NUM_CLASSES = 19
# The encoders smp can build at output stride 16; timm's HRNet, HGNetv2 and VoVNet have no dilation.
SMP_ENCODERS = {
    "mobilenet": "mobilenet_v2",
    "resnet50": "resnet50",
    "res2net50_26w_4s": "tu-res2net50_26w_4s",
}
Batch = tuple[Tensor, Tensor]  # uint8 (N,3,H,W) and (N,H,W), as the loader gives them


@dataclass(frozen=True)
class Work:
    """What a step is of."""

    backbone: str
    size: int
    batch: int
    device: str = "cpu"
    recipe: str = ""
    data: str = ""  # folder of images on disk
    dataset: str = "cityscapes"

    def __str__(self) -> str:
        return f"{self.backbone} {self.batch}x{self.size}x{self.size}"

    def random_batch(self, device: torch.device) -> Batch:
        """In the host's memory, pinned if it goes to a GPU."""
        shape, on_gpu = (self.batch, self.size, self.size), device.type == "cuda"
        images = torch.randint(256, (self.batch, 3, *shape[1:]), dtype=torch.uint8)
        labels = torch.randint(NUM_CLASSES, shape, dtype=torch.uint8)
        return (images.pin_memory(), labels.pin_memory()) if on_gpu else (images, labels)


class PlainLoss(nn.Module):
    """Scores upsampled to full size, then torch's cross entropy: what the row bands replace."""

    def count(self, labels: Tensor) -> Tensor:
        return (labels != 255).sum()

    def forward(
        self, outputs: Mapping[str, Tensor], labels: Tensor, *, count: Tensor | None = None
    ) -> Tensor:
        scores = F.interpolate(outputs["out"].float(), size=labels.shape[1:], mode="bilinear")
        return F.cross_entropy(scores, labels.long(), ignore_index=255)


def build_model(contender: str, work: Work) -> nn.Module:
    """The contender's network, with random weights."""
    who = contender.split()[0]
    if who == "smp":
        import segmentation_models_pytorch as smp

        return smp.DeepLabV3Plus(
            SMP_ENCODERS[work.backbone],
            encoder_weights=None,
            encoder_output_stride=16,
            classes=NUM_CLASSES,
        )
    if who == "torchvision":
        return _torchvision_model()
    legacy = who == "predecessor" and work.backbone == "mobilenet"
    return network.create_model(
        f"deeplabv3plus_{work.backbone}",
        num_classes=NUM_CLASSES,
        pretrained="none",
        backbone_args={"legacy_padding": True} if legacy else None,
    )


def _torchvision_model() -> nn.Module:
    """torchvision's deeplabv3_resnet50, which has output stride 8, at 16."""
    from torchvision.models import resnet50
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.segmentation import deeplabv3

    backbone = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    features = create_feature_extractor(backbone, {"layer4": "out"})
    return deeplabv3.DeepLabV3(features, deeplabv3.DeepLabHead(2048, NUM_CLASSES))


def peer_step(contender: str, work: Work) -> Callable[[], None]:
    """The step of a peer as its users write it: normalized input, full-size scores, the loss read.

    It has the precision and layout its name says; nothing else is tuned. Its batch is on the device
    already, normalized, which ours is not.
    """
    convolve_upsampled()
    device = torch.device(work.device)
    model = build_model(contender, work).train().to(device)
    layout = torch.channels_last if "channels_last" in contender else torch.contiguous_format
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = work.random_batch(torch.device("cpu"))
    images, labels = images.float().div(255).sub(0.45).div(0.225), labels.long()
    images, labels = images.to(device, memory_format=layout), labels.to(device)
    precision = "bf16" if "bf16" in contender else "fp32"

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device, precision):
            output = model(images)
            scores = output["out"] if isinstance(output, dict) else output
            loss = F.cross_entropy(scores, labels, ignore_index=255)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def our_run(contender: str, work: Work) -> Run:
    """A run of main.py as it is before its first step; nothing of it is on disk."""
    argv = [work.recipe] if work.recipe else ["--model", f"deeplabv3plus_{work.backbone}"]
    if not work.recipe:
        argv += ["--crop_size", str(work.size), "--batch_size", str(work.batch)]
        argv += ["--precision", "bf16" if "bf16" in contender else "fp32"]
        argv += ["--compile"] * ("compiled" in contender)
        argv += ["--activation_checkpointing"] * ("recomputed" in contender)
    shapes = ["--dataset", "shapes", "--num_classes", str(NUM_CLASSES)]
    disk = ["--dataset", work.dataset, "--data_root", work.data]
    argv += disk if "from-disk" in contender else shapes
    argv += ["--class_weights", "none", "--pretrained", "none", "--output_dir"]
    argv += [str(Path(tempfile.gettempdir(), "never_written")), "--device", work.device]
    run = prepare(options.parse_main(argv), "")
    if work.recipe and options.parse_main([work.recipe]).optim.class_weights != "none":
        run.criterion.weight = torch.ones(NUM_CLASSES, device=run.world.device)
    return replace(run, criterion=PlainLoss()) if "plain-loss" in contender else run


def our_step(run: Run, source: Iterator[Batch]) -> Callable[[], None]:
    """A step of `main.train` that neither validates nor saves."""
    net = training_network(run.model, 0, optim=run.opts.optim, world=run.world)
    numbers = itertools.count(1)

    def step() -> None:
        number = next(numbers)
        batches = list(itertools.islice(source, run.opts.optim.grad_accumulation))
        run.optimizer_step.before_forward()
        run.optimizer_step.update(number, main.compute_gradients(run, net, batches))
        if number % run.opts.run.print_interval == 0:
            run.optimizer_step.poll()

    return step


def count_gflop(contender: str, work: Work) -> float:
    """Of a step: three times the forward pass, a multiply-add counted as two.

    The counter's own figure for the backward pass is wrong for depthwise convolutions.
    """
    with torch.device("meta"):
        model = build_model(contender, work).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, work.size, work.size))
    return 3 * work.batch * counter.get_total_flops() / 1e9


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
    return sum(x.numel() * x.element_size() for x in tree_leaves(values) if isinstance(x, Tensor))


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


def ceilings(device_name: str) -> dict[str, float]:
    """FLOP/s in bf16, of a matmul or a convolution, and bytes/s of a copy; best of some runs."""
    device = torch.device(device_name)
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    side, height, copied = (8192, 192, 2**30) if on_gpu else (1024, 32, 2**26)
    bf16 = {"device": device, "dtype": torch.bfloat16}
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
