"""How long a training step takes beside the predecessor's and other libraries', and what it needs.

    python -m benchmarks.train_step [--models mobilenet resnet50] [--size 256] [--rounds 5]
    python -m benchmarks.train_step @recipes/camvid_cpu.txt     # a recipe's whole training
    python -m benchmarks.train_step --memory                    # the peak of a step
    python -m benchmarks.train_step --device cuda [--data DIR --dataset cityscapes]

The predecessor's step is re-created from its documented recipe: the same network (MobileNetV2 with
its padding), eager fp32, contiguous tensors, full-size scores, the loss read at every step. Ours is
the loop of main.py with its allocator settings. segmentation_models_pytorch (smp) has separable
convolutions in the head, torchvision's DeepLabV3 no decoder: hence the GFLOP column, which counts
convolutions of upsampled maps as such for ours too, though on a CPU they are not made. Each
contender is a process of its own, in turn with the others. A ratio is the median over the rounds
with its 95 % interval (bootstrap); above 1 is faster than the base. On a GPU (or with --roofline)
there is the share of the time that the roofline asks for: of all eager operations one by one, and
of convolutions alone, with bf16 FLOP/s and bytes/s of a copy as measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch

from benchmarks import common, contenders, workers
from benchmarks.contenders import Work
from utils import options

CPU_WORKS = [("mobilenet", 256), ("mobilenet", 512), ("resnet50", 256), ("hrnetv2_48", 256)]
GPU_MODELS = ("hrnetv2_48", "resnet50", "hgnetv2_b4", "vovnetv2_39b", "res2net50_26w_4s")
MEMORY_WAYS = (" plain-loss", "", " recomputed")
PREDECESSOR, RECIPE, FROM_DISK = workers.PREDECESSOR, "recipe", "ours bf16 from-disk"
HAS_SMP = find_spec("segmentation_models_pytorch") is not None


def work(contender: str, work: Work, args: argparse.Namespace) -> None:
    """The worker's side: one contender, until nobody asks any more."""
    if contender == "ceilings":
        workers.serve(lambda: common.ceilings(work.device))
        return
    answers, sys.stdout = sys.stdout, sys.stderr  # stdout is for answers
    turn = contenders.prepared(contender, work, steps=args.steps, ceilings=args.ceilings)
    sys.stdout = answers
    workers.serve(turn)


def memory_work(contender: str, work: Work) -> None:
    """The worker's side of --memory: what a step needs above what was there before it."""
    answers, sys.stdout = sys.stdout, sys.stderr
    # A kept peak would hide the next one's.
    with mock.patch("utils.training.prepare.keep_freed_memory"):
        run = contenders.our_run(contender, work)
    device = run.world.device
    small = dataclasses.replace(work, batch=2, size=64).random_batch(device)
    step = contenders.our_step(run, iter([small, work.random_batch(device)]))
    sys.stdout = answers
    step()  # libraries are loaded, the optimizer's state exists

    def once() -> dict[str, float]:
        with common.peak_memory(device) as result:
            step()
        return result

    workers.serve(once)


def start(
    contender: str, work: Work, extra: Sequence[str] = (), *, seconds: float | None = None
) -> workers.Worker:
    """The process of one contender."""
    arguments = [work.recipe] if work.recipe else []
    for name, value in {**dataclasses.asdict(work), "case": contender}.items():
        arguments += [] if name == "recipe" else [f"--{name}", str(value)]
    return workers.Worker("train_step", [*arguments, *extra], seconds=seconds)


def alternate(
    works: Mapping[str, Work], rounds: int, extra: Sequence[str] = ()
) -> dict[str, list[dict[str, float]]]:
    """Each contender in turn, after a first round; one that fails is said and left out."""
    started: dict[str, workers.Worker] = {}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for number in range(-1, rounds + 1):
        order = list(works)[:: -1 if number % 2 else 1]
        for name in [name for name in order if name in results]:
            try:
                if number < 0:
                    started[name] = start(name, works[name], extra)
                    continue
                result = started[name].run()
                if number:
                    results[name].append(result)
            except (SystemExit, BrokenPipeError) as error:
                print(f"{name}, {works[name]}: left out: {error}", file=sys.stderr)
                del results[name]
    for worker in started.values():
        worker.close()
    return results


def compared(backbone: str, *, gpu: bool) -> list[str]:
    """Who is compared on a backbone, where it is installed."""
    names, peers = [PREDECESSOR, "ours fp32", "ours bf16"], ["smp fp32"]
    if gpu:
        names = [PREDECESSOR, "ours bf16", "ours bf16 compiled"]
        peers = ["smp bf16", "smp bf16 channels_last"]
    if backbone in contenders.SMP_ENCODERS and HAS_SMP:
        names += peers
    if backbone == "resnet50" and not gpu:
        names.append("torchvision fp32")
    return names


def step_rows(work: Work, args: argparse.Namespace, limits: dict[str, float]) -> list[list[str]]:
    """The rows of one network and size."""
    names, extra = compared(work.backbone, gpu=bool(limits)), ["--steps", str(args.steps)]
    if limits:
        best = max(limits["matmul"], limits["conv"])
        extra += ["--ceilings", str(best), str(limits["bytes_per_s"])]
    results = alternate(dict.fromkeys(names, work), args.rounds, extra)
    if work.data:
        results |= alternate({FROM_DISK: work}, 1, [*extra, "--steps", str(10 * args.steps)])
    seconds = {name: [r["seconds"] for r in rounds] for name, rounds in results.items()}
    smp = next((name for name in results if name.startswith("smp")), None)
    rows = []
    for name, own in seconds.items():
        row = [str(work), name, f"{1000 * statistics.median(own):.1f}"]
        row.append(f"{1000 * min(own):.1f}..{1000 * max(own):.1f}")
        for base in (PREDECESSOR, smp):
            paired = base in seconds and name not in (base, FROM_DISK)
            row.append(common.ratio_cell(seconds[base or name], own) if paired else "-")
        gflop = contenders.count_gflop(name, work)
        row += [f"{gflop:.1f}", f"{gflop / statistics.median(own):.0f}"]
        if limits:
            eager = results.get(name.removesuffix(" compiled"), results[name])
            row += gpu_cells(work, results[name], eager[-1])
        rows.append(row)
    return rows


def gpu_cells(
    work: Work, results: Sequence[Mapping[str, float]], counted: Mapping[str, float]
) -> list[str]:
    """images/s, peak, FLOPs and bytes, both shares of the roofline, data wait."""
    seconds = statistics.median(result["seconds"] for result in results)
    cells = [f"{work.batch / seconds:.1f}", f"{results[-1]['mib']:.0f}"]
    cells += [f"{counted.get(name, math.nan) / 1e9:.1f}" for name in ("flops", "bytes")]
    cells += [f"{100 * counted.get(name, math.nan) / seconds:.0f} %" for name in ("all", "conv")]
    return [*cells, f"{100 * results[-1]['data wait']:.1f} %"]


def show_steps(works: Sequence[Work], args: argparse.Namespace) -> None:
    limits: dict[str, float] = {}
    if args.roofline:
        worker = start("ceilings", works[0])
        limits = worker.run()
        worker.close()
        print(
            f"bf16 ceilings: matmul {limits['matmul'] / 1e12:.2f} and convolution "
            f"{limits['conv'] / 1e12:.2f} TFLOP/s, copy {limits['bytes_per_s'] / 1e9:.0f} GB/s"
        )
    rows = [row for one in works for row in step_rows(one, args, limits)]
    header = "step|who|median ms|min..max|over predecessor|over smp|GFLOP|GFLOP/s".split("|")
    if limits:
        more = "images/s|peak MiB|conv GFLOP|GB|of the roofline|of that of convolutions|data wait"
        header += more.split("|")
    workers.print_table(header, rows)
    print("" if HAS_SMP else "segmentation_models_pytorch: not installed")


def show_memory(works: Sequence[Work]) -> None:
    rows = []
    for one in works:
        for name in [f"ours {p}{way}" for p in ("fp32", "bf16") for way in MEMORY_WAYS]:
            worker = start(name, one, ["--memory"])
            rows.append([str(one), name, f"{worker.run()['rise']:.0f}"])
            worker.close()
    workers.print_table(["step", "who", "peak of a step, MiB"], rows)


def show_recipe(args: argparse.Namespace) -> None:
    """The predecessor's 1,000 steps of 8 crops of 256 beside the recipe's own number of steps."""
    opts = options.parse_main([args.recipe])
    works = {
        PREDECESSOR: Work("mobilenet", 256, 8, args.device),
        RECIPE: Work(opts.model.model, 256, 8, args.device, recipe=args.recipe),
    }
    results = alternate(works, args.rounds, ["--steps", str(args.steps)])
    rows, base = [], None
    for name, rounds in results.items():
        own = [result["seconds"] for result in rounds]
        title, steps = (args.recipe, opts.optim.total_itrs) if name == RECIPE else (name, 1000)
        minutes = statistics.median(own) * steps / 60
        base = base or minutes  # the predecessor is the first
        row = [title, f"{statistics.median(own):.3f}", f"{min(own):.3f}..{max(own):.3f}"]
        rows.append([*row, str(steps), f"{minutes:.1f}", f"{minutes / base:.2f}"])
    workers.print_table(["", "median s/step", "min..max", "steps", "minutes", "ratio"], rows)


def asked_works(args: argparse.Namespace) -> list[Work]:
    """The options' networks and sizes, or the mode's own."""
    place = {"device": args.device, "data": args.data, "dataset": args.dataset}
    models, sizes, batches = list(dict(CPU_WORKS)), [256], [2]
    if args.quick:
        models, sizes = ["mobilenet"], [64]
    elif args.memory:
        models, sizes, batches = ["mobilenet"], [768], [8]
    elif args.device.startswith("cuda"):
        models, sizes, batches = list(GPU_MODELS), [768], [8, 16]
    elif not args.models and not args.size:
        pairs = itertools.product(CPU_WORKS, args.batch or batches)
        return [Work(*pair, number, **place) for pair, number in pairs]
    chosen = itertools.product(args.models or models, args.size or sizes, args.batch or batches)
    return [Work(*one, **place) for one in chosen]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="", help="@FILE: time its whole training")
    parser.add_argument("--models", "--backbone", nargs="+", help="backbones")
    parser.add_argument("--size", nargs="+", type=int, help="sides of the crop")
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="timed in a turn (default: 1, on a GPU 10)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small, one round: does it run?")
    parser.add_argument("--memory", action="store_true", help="the peak of a step instead")
    parser.add_argument("--roofline", action="store_true", help="as on a GPU, on any device")
    parser.add_argument("--data", default="", help="folder of images for the data wait")
    parser.add_argument("--dataset", default="cityscapes", help="what is in --data")
    hidden: dict[str, Any] = {"help": argparse.SUPPRESS}  # of the processes it starts
    parser.add_argument("--worker", action="store_true", **hidden)
    parser.add_argument("--case", **hidden)
    parser.add_argument("--ceilings", nargs=2, type=float, **hidden)
    args = parser.parse_args()
    on_gpu = args.device.startswith("cuda")
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.steps = args.steps or (10 if on_gpu else 1)
    args.roofline = args.roofline or on_gpu
    if args.recipe and not args.recipe.startswith("@"):
        parser.error(f"recipe {args.recipe!r}; give it as @FILE, as in @recipes/camvid_cpu.txt")
    return args


def main() -> None:
    args = parse()
    works = asked_works(args)
    if args.worker:
        one = dataclasses.replace(works[0], recipe=args.recipe)
        memory_work(args.case, one) if args.memory else work(args.case, one, args)
        return
    machine = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    print(
        f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{contenders.NUM_CLASSES} classes, {args.rounds} rounds of {args.steps} step(s)"
    )
    if args.recipe:
        show_recipe(args)
    elif args.memory:
        show_memory(works)
    else:
        show_steps(works, args)


if __name__ == "__main__":
    main()
