"""Whether predict.py's readers and writers keep up with a quick device.

    python -m benchmarks.pipeline [--images 24] [--threads 2] [--milliseconds 10] [--overlay]

The device is a double that sleeps. The images are PNGs of 1024x2048, made of the shapes with some
noise. "one core" is what one thread does by itself: decode an image and encode its files. The
pipeline should come to 0.8 times the number of cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Before this folder, where benchmarks/predict.py would be found as `predict`.
import predict
from benchmarks import workers
from datasets.shapes import Shapes
from utils import options, prediction

SIZE = (1024, 2048)  # H, W
NUM_CLASSES = 16


class Sleeper:
    """A device that takes some time for each image."""

    batch_size, in_flight = 1, 0
    size: tuple[int, int] | None = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        ids = np.random.default_rng(1).integers(0, NUM_CLASSES, (16, 32), dtype=np.uint8)
        self.labels = ids.repeat(64, axis=0).repeat(64, axis=1)

    def stage(self, image: np.ndarray) -> np.ndarray:
        return image

    def launch(self, images: Sequence[Any]) -> int:
        time.sleep(self.seconds * len(images))
        return len(images)

    def finish(self, launched: int) -> list[tuple[np.ndarray, None]]:
        return [(self.labels, None)] * launched


def make_images(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        noisy = workers.mosaic(*SIZE, first=12 * index) + rng.integers(-6, 7, (*SIZE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:03d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--milliseconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overlay", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        make_images(folder / "images", args.images)
        places = ["--input", str(folder / "images"), "--output", str(folder / "masks")]
        overlay = ["--overlay"] * args.overlay
        opts, _ = options.parse_predict([*places, *overlay, "--ckpt", "none"])
        jobs, _ = predict.plan_jobs(opts, may_replace=False)
        names = [f"class {index}" for index in range(NUM_CLASSES)]
        outputs = prediction.Outputs(names, Shapes.facts.palette, alpha=0.5, contours=False)
        device = Sleeper(args.milliseconds / 1000)
        prepared = predict.Prepared(device, args.threads, jobs, jobs, outputs, None, [])
        for number in range(args.rounds):
            begin = time.perf_counter()
            for job in jobs:
                image = predict.read_rgb(job.image, None)
                outputs.write(prediction.Work(job, image=image, labels=device.labels))
            alone = (time.perf_counter() - begin) / args.images
            shutil.rmtree(folder / "masks")
            begin = time.perf_counter()
            assert not list(predict.predict_all(prepared, opts))
            together = (time.perf_counter() - begin) / args.images
            shutil.rmtree(folder / "masks")
            cells = [f"{1 / alone:.1f}", f"{1 / together:.1f}", f"{alone / together:.2f}x"]
            rows.append([str(number + 1), "overlay" if args.overlay else "mask", *cells])
    print(f"{args.images} PNGs of {SIZE[1]}x{SIZE[0]}, {args.threads} threads to read and to write")
    workers.print_table(["round", "files", "one core, images/s", "pipeline", "ratio"], rows)


if __name__ == "__main__":
    main()
