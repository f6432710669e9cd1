"""A training on CamVid by recipes/camvid_gpu.txt, cut to the minutes that there are."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.sheet import Deadline, Sheet
from utils import options

ROOT = Path(__file__).parents[2]
RECIPE = "@recipes/camvid_gpu.txt"
MINUTES = 8  # of training and validation; the rest of the part measures the speed before


def camvid() -> Path:
    """Where the tests look for it, too."""
    shared = ROOT.parent / "shared" / "data"
    return Path(os.environ.get("DEEPLAB_TEST_DATA", shared)) / "cityscapes_camvid"


def measure(sheet: Sheet, args: argparse.Namespace) -> bool:
    """The row of a run; returns whether it ended well."""
    deadline, root = Deadline(min(args.minutes, MINUTES + 1)), args.data or camvid()
    place = ["--dataset", "cityscapes", "--data_root", str(root)]
    if args.quick:  # no files: what is timed is whether it runs
        small = "--model deeplabv3plus_resnet18 --crop_size 64 --batch_size 2 --num_workers 0"
        place = ["--dataset", "shapes", "--class_weights", "none", *small.split(), "--crop_val"]
    elif not root.is_dir():
        sheet.say(f"\nno CamVid in {root}: give --data DIR, or set DEEPLAB_TEST_DATA")
        return False
    common = [RECIPE, *place, "--pretrained", "none", "--device", args.device]
    opts = options.parse_main([RECIPE])
    steps = opts.optim.total_itrs
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            steps = 2
        else:
            trial = [*common, "--total_itrs", "60", "--warmup_itrs", "10", "--print_interval", "20"]
            if not run(trial, Path(folder, "trial"), deadline, sheet):
                return False
            speed = entries(Path(folder, "trial"), "images/s")[-1]["images/s"]
            seconds = min(deadline.left(), 60 * MINUTES) - 60  # for the start and validations
            steps = min(steps, int(seconds * speed / opts.data.batch_size))
        begin, output = time.monotonic(), Path(folder, "run")
        warmup = ["--warmup_itrs", str(min(200, steps // 10))]
        more = ["--total_itrs", str(steps), "--val_interval", str(max(steps // 6, 1)), *warmup]
        done = run([*common, *more], output, deadline, sheet)
        minutes = (time.monotonic() - begin) / 60
        sheet.table("recipe|steps|minutes|best val mIoU|at step|images/s at the end|data wait")
        sheet.row([RECIPE, *row(output, steps, minutes)])
        return done


def run(arguments: list[str], output: Path, deadline: Deadline, sheet: Sheet) -> bool:
    """main.py, as far as the time goes; its last words go into the sheet if it fails."""
    command = [sys.executable, "main.py", *arguments, "--output_dir", str(output)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=max(deadline.left(), 1)
        )
    except subprocess.TimeoutExpired:
        sheet.say("\nthe time is up; what was reached:")
        return False
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        sheet.say(f"\n{RECIPE} failed: {last[0][:300]}")
    return done.returncode == 0


def entries(output: Path, key: str) -> list[dict[str, float]]:
    """The entries of a run's history that have this key; none if it got nowhere."""
    lines: list[str] = []
    for history in output.glob("*/history.jsonl"):
        lines += history.read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry.get(key) is not None]


def row(output: Path, steps: int, minutes: float) -> list[str]:
    """Steps, minutes, the best score and the speed, from the run's history."""
    score = "Mean IoU (classes in ground truth)"
    scores = [(entry[score], entry["step"]) for entry in entries(output, score)]
    speeds = entries(output, "images/s")
    best, at = max(scores, default=(float("nan"), 0))
    last = speeds[-1] if speeds else {"images/s": float("nan"), "data wait": float("nan")}
    return [
        str(steps),
        f"{minutes:.1f}",
        f"{best:.4f}",
        str(at),
        f"{last['images/s']:.1f}",
        f"{100 * last['data wait']:.1f} %",
    ]
