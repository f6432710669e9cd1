"""How fast are the segmentation counts? Prints StreamSegMetrics.update beside the predecessor's.

python -m benchmarks.metrics [--height 1024] [--width 2048] [--classes 19] [--rounds 30]

One image a call, labels and predictions int64 as the predecessor's loop passes them, 10 % of the
pixels ignored. The two alternate, so a slow moment of the machine falls on both: trust the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from metrics import StreamSegMetrics


def predecessor_counts(labels: np.ndarray, preds: np.ndarray, num_classes: int) -> np.ndarray:
    """Count in the predecessor's steps: flatten (a copy), mask, combine into one index, count."""
    labels, preds = labels.flatten(), preds.flatten()
    mask = (labels >= 0) & (labels < num_classes)
    index = num_classes * labels[mask].astype(int) + preds[mask]
    return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


def make_image(height: int, width: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of one class each, 15 % of the predictions wrong, 10 % of the labels ignored."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, num_classes, (height // 32 + 1, width // 32 + 1))
    labels = blocks.repeat(32, axis=0).repeat(32, axis=1)[:height, :width].copy()
    wrong = rng.integers(0, num_classes, labels.shape)
    preds = np.where(rng.random(labels.shape) < 0.15, wrong, labels)
    labels[rng.random(labels.shape) < 0.1] = 255
    return labels, preds


def alternate(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time the cases in turn: milliseconds per call."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for round_index in range(rounds + 2):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if round_index >= 2:  # the first two warm up
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    labels, preds = make_image(options.height, options.width, options.classes)
    ours = StreamSegMetrics(options.classes)
    ours.update(labels, preds)
    expected = predecessor_counts(labels, preds, options.classes)
    if not np.array_equal(ours.confusion, expected):
        raise SystemExit("the counts differ: the times would compare different work")

    narrow = (torch.from_numpy(labels.astype(np.uint8)), torch.from_numpy(preds))
    total = np.zeros_like(expected)

    def predecessor_update() -> None:
        np.add(total, predecessor_counts(labels, preds, options.classes), out=total)

    cases = {
        "predecessor, int64": predecessor_update,
        "ours, int64": lambda: ours.update(labels, preds),
        "ours, uint8 labels": lambda: ours.update(*narrow),
    }
    times = alternate(cases, options.rounds)
    base = statistics.median(times["predecessor, int64"])
    print(
        f"{options.height}x{options.width}, {options.classes} classes, 10 % ignored, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds; equal counts"
    )
    print(f"{'method':<20}  {'median ms':>9}  {'min..max':>15}  {'ratio':>6}")
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"{min(values):.2f}..{max(values):.2f}"
        print(f"{name:<20}  {median:>9.2f}  {spread:>15}  {base / median:>5.1f}x")


if __name__ == "__main__":
    main()
