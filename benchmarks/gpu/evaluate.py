"""How many large images a second are validated and predicted."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import network
from benchmarks import common, workers
from benchmarks.gpu.sheet import Deadline, Sheet
from metrics import StreamSegMetrics
from network.inference import folded, predict_labels
from utils.runtime.precision import AUTOCAST_DTYPES, autocast, set_float32_precision

ROOT = Path(__file__).parents[2]
NUM_CLASSES = 19
BACKBONES = ("mobilenet", "resnet50", "hrnetv2_48")
# What predict.py is given beside images: its files' suffix, then its options.
COMMANDS = (
    ("jpg", "--precision bf16"),
    ("jpg", "--precision fp32"),
    ("jpg", "--precision bf16 --overlay"),
    ("png", "--precision bf16"),
)


def measure(sheet: Sheet, args: argparse.Namespace) -> bool:
    """Both tables; returns whether predict.py always ended well."""
    device, deadline = torch.device(args.device), Deadline(args.minutes)
    size, count = ((64, 128), 4) if args.quick else ((1024, 2048), 200)
    backbones = BACKBONES[:1] if args.quick else BACKBONES
    with tempfile.TemporaryDirectory() as folder:
        sheet.say(f"\nValidation of {size[1]}x{size[0]}, one by one: from the host to the counts.")
        sheet.table("network|precision|images/s|peak MiB")
        for backbone in backbones:
            name = f"deeplabv3plus_{backbone}"
            steps = 2 if args.quick else 80
            model = workers.trained_model(name, num_classes=NUM_CLASSES, steps=steps, device=device)
            workers.save_checkpoint(model, Path(folder, f"{backbone}.pth"))
            for precision in ("bf16",) if args.quick else ("fp32", "tf32", "bf16"):
                speed, mib = validation(model, precision, size=size, count=max(count // 10, 2))
                sheet.row([backbone, precision, f"{speed:.1f}", f"{mib:.0f}"])
            del model
        return predictions(sheet, args, Path(folder), deadline, size=size, count=count)


def validation(
    model: network.DeepLabV3, precision: str, *, size: tuple[int, int], count: int
) -> tuple[float, float]:
    """Images per second as `main.validate` sees them, and the peak of memory."""
    device = next(model.parameters()).device
    quick, metrics = folded(model, conv_dtype=AUTOCAST_DTYPES.get(precision)), None
    images = torch.from_numpy(workers.mosaic(*size)).permute(2, 0, 1)[None].contiguous()
    labels = torch.randint(NUM_CLASSES, (1, *size), dtype=torch.uint8)
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    metrics = StreamSegMetrics(NUM_CLASSES)

    def one() -> None:
        inputs, targets = (x.to(device, non_blocking=True) for x in (images, labels))
        with autocast(device, precision), torch.inference_mode():
            inputs = model.normalize(inputs).contiguous(memory_format=torch.channels_last)
            found = predict_labels(quick, inputs)
        metrics.update(targets, found)
        found.cpu()

    set_float32_precision(precision)
    try:
        common.timed(one, device, calls=2 if count < 5 else 6)  # cuDNN has searched then
        with common.peak_memory(device) as result:
            seconds = common.timed(one, device, calls=count)
    finally:
        set_float32_precision("fp32")
    return 1 / seconds, result["mib"]


def predictions(
    sheet: Sheet,
    args: argparse.Namespace,
    folder: Path,
    deadline: Deadline,
    *,
    size: tuple[int, int],
    count: int,
) -> bool:
    """The table of predict.py; returns whether it always ended with 0."""
    sheet.say(f"\npredict.py, {count} images of {size[1]}x{size[0]}, from the command to its end.")
    sheet.table("network|images|options|images/s|images/s without the start|start, s")
    backbone = BACKBONES[0] if args.quick else BACKBONES[1]
    fine = True
    for suffix, options in COMMANDS[:1] if args.quick else COMMANDS:
        seconds = []
        for number in (1, count):
            place = images(folder / f"{suffix}_{number}", suffix, size=size, count=number)
            output = Path(tempfile.mkdtemp(dir=folder))
            command = [sys.executable, "predict.py", "--input", str(place), *options.split()]
            command += ["--ckpt", str(folder / f"{backbone}.pth"), "--output", str(output)]
            command += ["--device", args.device]
            begin = time.monotonic()
            try:
                left = max(deadline.left(), 1)
                run = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, timeout=left
                )
            except subprocess.TimeoutExpired:
                sheet.row([backbone, suffix, options, "not reached in time", "", ""])
                return fine
            seconds.append(time.monotonic() - begin)
            if run.returncode:
                last = run.stderr.strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
                sheet.row([backbone, suffix, options, f"failed: {last[0][:200]}", "", ""])
                fine = False
                break
        else:
            alone, everything = seconds
            more = everything - alone  # below 0 where few images cost less than the start varies
            without_start = f"{(count - 1) / more:.1f}" if more > 0 else ""
            speeds = [f"{count / everything:.1f}", without_start, f"{alone:.1f}"]
            sheet.row([backbone, suffix, options, *speeds])
    return fine


def images(folder: Path, suffix: str, *, size: tuple[int, int], count: int) -> Path:
    """A folder with `count` images, 20 of them different; the others are links to these."""
    if folder.exists():
        return folder
    folder.mkdir()
    grain = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:04}.{suffix}"
        if number >= 20:
            os.link(folder / f"{number % 20:04}.{suffix}", path)
            continue
        pixels = workers.mosaic(*size, first=12 * number) + grain.normal(0, 3, (*size, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return folder
