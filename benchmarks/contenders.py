"""The training steps that are compared: ours, the predecessor's and other libraries'.

A contender is named by words: who ("predecessor", "ours", "smp", "torchvision", "recipe"), the
precision ("fp32", "bf16"), and perhaps "channels_last", "compiled", "plain-loss", "recomputed",
"from-disk" or "cached".
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import main
import network
from benchmarks.common import Roofline, peak_memory, timed
from benchmarks.workers import convolve_upsampled
from utils import options
from utils.loss import Criterion
from utils.runtime.precision import autocast
from utils.training.model import training_network
from utils.training.prepare import prepare
from utils.training.run import Run
from utils.visualizer import Progress

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


class PlainLoss(Criterion):
    """Scores upsampled to full size, then torch's cross entropy: what the row bands replace."""

    def forward(
        self,
        outputs: Tensor | Mapping[str, Tensor],
        labels: Tensor,
        *,
        count: Tensor | None = None,
    ) -> Tensor:
        assert not isinstance(outputs, Tensor)
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
    disk += ["--cache", str(Path(work.data, "cache"))] * ("cached" in contender)
    argv += disk if "from-disk" in contender else shapes
    argv += ["--class_weights", "none", "--pretrained", "none"]
    argv += ["--output_dir", str(Path(tempfile.gettempdir(), "never_written"))]
    run = prepare(options.parse_main([*argv, "--device", work.device]), "")
    if work.recipe and options.parse_main([work.recipe]).optim.class_weights != "none":
        run.criterion.weight = torch.ones(NUM_CLASSES, device=run.world.device)
    return replace(run, criterion=PlainLoss("cross_entropy")) if "plain-loss" in contender else run


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


def prepared(
    contender: str, work: Work, *, steps: int, ceilings: Sequence[float] | None
) -> Callable[[], dict[str, float]]:
    """What measures `steps` steps of a contender, and with `ceilings` its roofline."""
    progress, device = Progress(1, quiet=True), torch.device(work.device)
    untimed = 3 if device.type == "cuda" else 1
    if contender.startswith(("ours", "recipe")):
        run = our_run(contender, work)
        shape = Work("", run.opts.data.crop_size, run.opts.data.batch_size)
        batches: Iterator[Batch] = itertools.repeat(shape.random_batch(device))
        if "from-disk" in contender:
            batches = progress.track(run.data.train_loader(0))
            untimed = 3 + 2 * run.data.num_workers  # what lay ready when the first step began
        step = our_step(run, batches)
    else:
        torch.backends.cudnn.benchmark = True  # as ours
        step = peer_step(contender, work)

    def turn() -> dict[str, float]:
        timed(step, device, calls=untimed)
        progress.restart()
        with peak_memory(device) as result:
            result["seconds"] = timed(step, device, calls=steps)
        result |= progress.speed(0)
        if ceilings and "compiled" not in contender:
            with Roofline(*ceilings) as roofline:
                step()
            result |= roofline.counts
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the next process needs the memory
        return result

    return turn
