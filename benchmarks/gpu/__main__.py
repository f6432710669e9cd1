"""Is the program right and quick on this GPU? One command, about half an hour.

    make gpu PYTHON=python3          # or: python -m benchmarks.gpu
    python -m benchmarks.gpu --part tests throughput [--minutes 9] [--data DIR]
    python -m benchmarks.gpu --device cpu --quick     # the same code in small, where there is none

The parts: tests (is it right?), throughput (training steps beside other libraries and a roofline),
evaluate (validation of large images, predict.py over a folder), recipe (8 minutes of training on
CamVid). Each may take --minutes. Everything is appended to one Markdown file row by row, so what is
finished stands there when the command is interrupted. Nothing is installed and nothing downloaded:
it needs torch and what requirements.txt names; pytest is not needed, and other libraries are
measured where they are installed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu import evaluate, network_checks, recipe, step_checks, throughput
from benchmarks.gpu.common import Check
from benchmarks.gpu.sheet import Deadline, Sheet, machine

CHECKS: dict[str, Check] = {
    check.__name__: check for check in (*step_checks.CHECKS, *network_checks.CHECKS)
}
GRACE = 30  # seconds for a part to write its last row


def tests(sheet: Sheet, args: argparse.Namespace) -> bool:
    """All checks on the device; returns whether all passed."""
    device, deadline, passed = torch.device(args.device), Deadline(args.minutes), True
    sheet.table("check|result|seconds|measured")
    for name, check in CHECKS.items():
        if args.quick and name in network_checks.SLOW_ON_CPU:
            continue
        if deadline.left() < 0:
            sheet.row([name, "not reached", "", ""])
            continue
        begin = time.monotonic()
        try:
            result, text = "passed", check(device)
        except Exception as error:  # a check may fail in any way, and the next one still counts
            traceback.print_exc()
            result, text = "**failed**", f"{type(error).__name__}: {str(error)[:300]}"
            passed = False
        sheet.row([name, result, f"{time.monotonic() - begin:.1f}", text])
    return passed


PARTS: dict[str, Callable[[Sheet, argparse.Namespace], bool]] = {
    "tests": tests,
    "throughput": throughput.measure,
    "evaluate": evaluate.measure,
    "recipe": recipe.measure,
}


def run_part(name: str, sheet: Sheet, args: argparse.Namespace, argv: Sequence[str]) -> bool:
    """Run a part as a process that ends in time; with --quick, or as that process, here."""
    if args.inside or args.quick:
        sheet.say(f"\n### {name}")
        try:
            return PARTS[name](sheet, args)
        except Exception as error:  # the other parts still count
            traceback.print_exc()
            sheet.say(f"\n{name} failed: {type(error).__name__}: {str(error)[:300]}")
            return False
    command = [sys.executable, "-m", "benchmarks.gpu", *argv, "--inside", "--part", name]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(60 * args.minutes + GRACE)
    except subprocess.TimeoutExpired:
        sheet.say(f"\n{name}: stopped after {args.minutes:g} minutes; the rows above are finished")
        code = 1
    finally:
        if process.poll() is None:  # with all processes that it started
            end_group(process)
    return code == 0


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--minutes", type=float, default=9, help="of each part (default: 9)")
    parser.add_argument("--output", type=Path, default=Path("gpu.md"), help="the Markdown file")
    parser.add_argument("--data", type=Path, help="CamVid in the layout of Cityscapes")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cpu" and not args.quick and not args.inside and sys.stdin.isatty():
        print("no GPU is used: on a CPU this takes hours; see --quick", file=sys.stderr)
    return args


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    args = parse(argv)
    sheet = Sheet(args.output)
    if not args.inside:
        sheet.say(f"\n## {time.strftime('%Y-%m-%d %H:%M')}, {machine(torch.device(args.device))}")
    try:
        done = [run_part(name, sheet, args, argv) for name in args.part]
    except KeyboardInterrupt:
        print(f"interrupted; what was finished is in {args.output}", file=sys.stderr)
        return 130
    if not args.inside:
        print(f"written to {args.output}")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
