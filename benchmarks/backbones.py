"""Our backbones against timm's of the same name: forward and training step, same work, alternated.

    python -m benchmarks.backbones [--rounds 20] [--size 256] [--batch 2]

Both run in fp32, channels last, at output stride 32 (HRNet 4), and stop behind the last stage: no
classifier, and for HRNet no fusion of the branches. A pair of times is taken in each round, in turn
and in changing order; the table gives the medians and the median of the pairs' ratios with its 95 %
confidence interval (bootstrap). A ratio below 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import timm
import torch
from torch import Tensor, nn

from network.backbone import create_backbone

PAIRS = {
    "resnet50": "resnet50",
    "mobilenet": "mobilenetv2_100",
    "hrnetv2_18": "hrnet_w18",
    "res2net50_26w_4s": "res2net50_26w_4s",
    "vovnetv2_39b": "ese_vovnet39b",
    "hgnetv2_b4": "hgnetv2_b4",
    "xception": "legacy_xception",
    "xception41": "xception41",
}


class Last(nn.Module):
    """The sum of the means of what the last stage gives: one tensor, or HRNet's branches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x)
        return sum(branch.mean() for branch in out) if isinstance(out, list | tuple) else out.mean()


def ours(name: str) -> nn.Module:
    stride = 4 if name.startswith("hrnet") else 32
    network: nn.Sequential = create_backbone(name, output_stride=stride)
    if name.startswith("hrnet"):
        network = nn.Sequential(*list(network.children())[:-1])  # less the concatenation
    return Last(network)


def theirs(name: str) -> nn.Module:
    if name.startswith("hrnet"):
        network = timm.create_model(name, features_only=True, feature_location="")
    elif name == "legacy_xception":
        network = timm.create_model(name, features_only=True, out_indices=(4,))
    else:
        last = len(cast(Any, timm.create_model(name, features_only=True)).feature_info) - 1
        network = timm.create_model(name, features_only=True, out_indices=(last,))
    return Last(network)


def forward_pass(model: nn.Module, images: Tensor) -> Callable[[], None]:
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(images)

    return run


def training_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        model(images).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def timed(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def compare(one: Callable[[], None], two: Callable[[], None], rounds: int) -> str:
    """Medians in ms, and the ratio with its confidence interval."""
    for run in (one, two, one, two):
        run()
    pairs = []
    for number in range(rounds):
        if number % 2:
            second, first = timed(two), timed(one)
        else:
            first, second = timed(one), timed(two)
        pairs.append((first, second))
    times = np.array(pairs)
    ratios = times[:, 0] / times[:, 1]
    draws = np.random.default_rng(0).choice(ratios, (2000, rounds))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    mine, other = 1000 * np.median(times, axis=0)
    return f"{mine:9.1f}{other:9.1f}{np.median(ratios):8.2f}  [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("names", nargs="*", default=list(PAIRS))
    args = parser.parse_args()
    images = torch.randn(args.batch, 3, args.size, args.size)
    images = images.contiguous(memory_format=torch.channels_last)
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads, "
        f"{args.batch}x3x{args.size}x{args.size}, {args.rounds} rounds"
    )
    print(f"{'':18}{'':10}{'ours ms':>9}{'timm ms':>9}{'ratio':>8}  95 % interval")
    for name in args.names:
        for kind in (forward_pass, training_step):
            models = (ours(name), theirs(PAIRS[name]))
            runs = [kind(m.to(memory_format=torch.channels_last), images) for m in models]
            title = "forward" if kind is forward_pass else "training"
            print(f"{name:18}{title:10}{compare(runs[0], runs[1], args.rounds)}", flush=True)


if __name__ == "__main__":
    main()
