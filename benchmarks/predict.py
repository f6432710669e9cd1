"""How long predict.py takes for a folder of images, beside the predecessor's loop.

    python -m benchmarks.predict [--model deeplabv3plus_mobilenet] [--images 20] [--rounds 5]

The images are JPEGs of 500x375, made of the shapes. The predecessor's loop is re-created from its
documented steps on the same network and weights: read, to a normalized tensor, plain eager fp32,
scores upsampled to full size, their maximum, an RGB picture of the classes as PNG. Ours is the loop
of predict.py, which writes PNGs with a palette. Starting and loading the checkpoint are not timed.
Each case is a process of its own, timed in turn with the others. The weights come from a few steps
on the shapes; "equal" are labels that agree with the predecessor's.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# Before this folder, where this very file would be found as `predict`.
import network
import predict
from benchmarks import workers
from utils import options

CASES = (workers.PREDECESSOR, "ours fp32", "ours bf16")
SIZE = (375, 500)  # H, W
NUM_CLASSES = 21


def predecessor_loop(folder: Path) -> Callable[[], None]:
    workers.convolve_upsampled()
    model = network.load_checkpoint(str(folder / "weights.pth"))
    normalize, palette = model.normalize, model.palette
    assert palette is not None  # save_checkpoint wrote it
    paths = sorted((folder / "images").glob("*.jpg"))
    (folder / workers.PREDECESSOR).mkdir()

    def run() -> None:
        for path in paths:
            pixels = np.array(Image.open(path).convert("RGB"))
            batch = normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous())
            with torch.no_grad():
                labels = model(batch).max(1)[1].cpu().numpy()[0]
            colors = Image.fromarray(palette[labels].astype(np.uint8))
            colors.save(folder / workers.PREDECESSOR / f"{path.stem}.png")

    return run


def our_loop(folder: Path, precision: str) -> Callable[[], None]:
    places = ["--input", str(folder / "images"), "--ckpt", str(folder / "weights.pth")]
    output = ["--output", str(folder / f"ours {precision}"), "--device", "cpu"]
    opts, old = options.parse_predict([*places, *output, "--precision", precision])
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for answers
        prepared = predict.prepare(opts, old)

    def run() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            problems = list(predict.predict_all(prepared, opts))
        assert not problems, problems

    return run


def work(case: str, folder: Path) -> None:
    """One case, until nobody asks any more."""
    is_old = case == workers.PREDECESSOR
    loop = predecessor_loop(folder) if is_old else our_loop(folder, case.split()[1])

    def run() -> dict[str, float]:
        begin = time.perf_counter()
        loop()
        return {"seconds": time.perf_counter() - begin}

    workers.serve(run)


def equal_share(folder: Path, case: str, palette: np.ndarray) -> float:
    """Share of pixels that have the predecessor's color, 0..1."""
    shares = []
    for path in sorted((folder / workers.PREDECESSOR).glob("*.png")):
        expected = np.array(Image.open(path))
        found = np.array(Image.open(folder / case / path.name).convert("RGB"))
        shares.append((found == expected).all(axis=2).mean())
    return float(np.mean(shares))


def measure(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    model = workers.trained_model(args.model, num_classes=NUM_CLASSES, steps=args.train_steps)
    workers.save_checkpoint(model, folder / "weights.pth")
    (folder / "images").mkdir()
    for index in range(args.images):
        picture = Image.fromarray(workers.mosaic(*SIZE, first=12 * index))
        picture.save(folder / "images" / f"{index:03d}.jpg", quality=95)
    started = {
        case: workers.Worker("predict", ["--case", case, "--folder", str(folder)]) for case in CASES
    }
    seconds = workers.alternate(started, rounds=args.rounds)
    rows = []
    for case in CASES:
        cells = workers.timing_cells(seconds, case, unit=1000 / args.images)
        equal = equal_share(folder, case, workers.Shapes.facts.palette)
        rows.append([args.model, case, *cells, f"{100 * equal:.4f} %"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deeplabv3plus_mobilenet")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train_steps", type=int, default=80)
    for name in ("--worker", "--case", "--folder"):  # of the processes it starts
        extra: dict[str, Any] = {"action": "store_true"} if name == "--worker" else {}
        parser.add_argument(name, help=argparse.SUPPRESS, **extra)
    args = parser.parse_args()
    if args.worker:
        work(args.case, Path(args.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    print(
        f"{args.images} JPEGs of {SIZE[1]}x{SIZE[0]} -> PNGs; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    header = ["network", "case", "median ms/image", "min..max", "speed-up", "equal"]
    workers.print_table(header, rows)


if __name__ == "__main__":
    main()
