"""How long a recipe trains beside the predecessor's Cityscapes command, in one alternated run.

    python benchmarks/train_step.py [@recipes/camvid_cpu.txt] [--rounds 5]

The predecessor's step is re-created from its documented recipe: deeplabv3plus_mobilenet at output
stride 16 with its padding, fp32, SGD, plain contiguous tensors, the loss read at every step. Steps
of both are timed in turn, so that a drifting machine slows both; the table gives the seconds of a
step, and those of a whole training: the predecessor's 1,000 steps of 8 crops of 256, the recipe's
own number of steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import network  # noqa: E402
from utils import options  # noqa: E402
from utils.loss import create_loss  # noqa: E402
from utils.optimizer import create_optimizer  # noqa: E402

NUM_CLASSES = 19


def batch(size: int, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random uint8 images and labels."""
    images = torch.randint(0, 256, (size, 3, crop, crop), dtype=torch.uint8)
    return images, torch.randint(0, NUM_CLASSES, (size, crop, crop), dtype=torch.uint8)


def predecessor_step(crop: int, size: int) -> Callable[[], None]:
    model = network.create_model(
        "deeplabv3plus_mobilenet",
        num_classes=NUM_CLASSES,
        output_stride=16,
        backbone_args={"legacy_padding": True},
    ).train()
    optimizer = create_optimizer("sgd", model, lr=0.1, backbone_lr_mult=0.1, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    normalize = network.Normalize(model.mean, model.std)
    images, labels = batch(size, crop)
    images, labels = normalize(images), labels.long()

    def step() -> None:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def recipe_step(opts: options.Options) -> Callable[[], None]:
    model = network.create_model(
        opts.model.model,
        num_classes=NUM_CLASSES,
        output_stride=opts.model.output_stride,
        separable_conv=opts.model.separable_conv,
    ).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer(
        opts.optim.optimizer,
        model,
        lr=opts.optim.lr,
        backbone_lr_mult=opts.optim.backbone_lr_mult,
        weight_decay=opts.optim.weight_decay,
    )
    weights = torch.ones(NUM_CLASSES) if opts.optim.class_weights != "none" else None
    criterion = create_loss(opts.optim.loss_type, class_weights=weights)
    normalize = network.Normalize(model.mean, model.std)
    images, labels = batch(opts.data.batch_size, opts.data.crop_size)
    use_bf16 = opts.optim.precision == "bf16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            inputs = normalize(images).contiguous(memory_format=torch.channels_last)
            loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="@recipes/camvid_cpu.txt")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    opts = options.parse_main([args.recipe])
    torch.manual_seed(0)
    cases = {
        "predecessor": (predecessor_step(256, 8), 1000),
        args.recipe: (recipe_step(opts), opts.optim.total_itrs),
    }
    for step, _ in cases.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, (step, _) in cases.items():
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print(f"{'':28}{'median s/step':>14}{'min..max':>16}{'steps':>8}{'minutes':>9}{'ratio':>8}")
    whole = {
        name: statistics.median(times[name]) * steps / 60 for name, (_, steps) in cases.items()
    }
    for name, (_, steps) in cases.items():
        spread = f"{min(times[name]):.3f}..{max(times[name]):.3f}"
        ratio = whole[name] / whole["predecessor"]
        print(
            f"{name:28}{statistics.median(times[name]):14.3f}{spread:>16}{steps:8d}"
            f"{whole[name]:9.1f}{ratio:8.2f}"
        )


if __name__ == "__main__":
    main()
