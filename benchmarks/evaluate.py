"""How long a large image takes from network input to labels, beside the predecessor's way.

    python -m benchmarks.evaluate [--models mobilenet hrnetv2_48] [--rounds 5] [--memory]

The predecessor's way is re-created from its documented steps on the same network and weights: eval
mode, plain eager fp32, contiguous tensors, scores upsampled to full size, then their maximum. Ours
is what main.py and predict.py do: folded BatchNorm, channels_last, labels from low-resolution
scores, the decoder's convolution on the map before it is upsampled (GFLOP are the plain way's),
freed memory kept. onnxruntime and OpenVINO, where they are installed, run what network.export
writes, with as many threads, and normalize within the time. Each case is a process of its own,
timed in turn with the others. The weights come from a few steps on the shapes; "equal" are labels
that agree with the predecessor's.
`--memory` adds what the pass itself needs: the peak of resident memory above what was resident
before, measured apart and without keeping freed memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import network
from benchmarks import workers
from network.export import session, to_onnx
from network.inference import folded, predict_labels
from utils.runtime.memory import keep_freed_memory

NUM_CLASSES = 19
CASES = (workers.PREDECESSOR, "ours fp32", "ours bf16")
PEERS = ("onnxruntime fp32", "openvino fp32", "openvino bf16")  # run what network.export writes


def labeller(case: str, ckpt: Path) -> tuple[Callable[[Tensor], Tensor], torch.memory_format]:
    """From normalized images to labels, and the layout the images have."""
    model = network.load_checkpoint(str(ckpt))
    if case == workers.PREDECESSOR:
        workers.convolve_upsampled()

        def predecessor(images: Tensor) -> Tensor:
            with torch.no_grad():
                return model(images).max(1)[1]

        return predecessor, torch.contiguous_format
    use_bf16 = case == "ours bf16"
    quick = folded(model, conv_dtype=torch.bfloat16 if use_bf16 else None)

    def ours(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            return predict_labels(quick, images)

    return ours, torch.channels_last


def peer(case: str, ckpt: Path) -> Callable[[Tensor], Tensor]:
    """From pixels, uint8 (1,3,H,W), to labels: the exported network in another program."""
    model = network.load_checkpoint(str(ckpt))
    made = to_onnx(model, size=None, half=False, with_labels=True)
    del made.graph.output[0]
    content = made.SerializeToString()
    name, precision = case.split()
    if name == "onnxruntime":
        run = session(content)
        return lambda pixels: torch.from_numpy(run(pixels.contiguous().numpy())[0])
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    return lambda pixels: torch.from_numpy(compiled(pixels.contiguous().numpy())[0].copy())


def work(case: str, ckpt: Path, size: tuple[int, int], *, memory: bool) -> None:
    """One case, until nobody asks any more; its labels lie beside `ckpt`."""
    if case != workers.PREDECESSOR and not memory:
        keep_freed_memory()
    pixels = torch.from_numpy(workers.mosaic(*size)).permute(2, 0, 1)[None]
    if case in PEERS:
        label, images = peer(case, ckpt), pixels.contiguous()
    else:
        label, layout = labeller(case, ckpt)
        model = network.load_checkpoint(str(ckpt))
        images = model.normalize(pixels).contiguous(memory_format=layout)
        del model
    label(images[..., :64, :64])  # libraries are loaded and set up
    del pixels

    def run() -> dict[str, float]:
        before = resident_mib(reset_peak=True)
        begin = time.perf_counter()
        labels = label(images)
        seconds = time.perf_counter() - begin
        needed = resident_mib("VmHWM") - before
        np.save(ckpt.with_name(f"{case}.npy"), labels.numpy().astype(np.uint8))
        return {"seconds": seconds, "mib": needed}

    workers.serve(run)


def resident_mib(field: str = "VmRSS", *, reset_peak: bool = False) -> float:
    """Resident memory of this process, or with VmHWM its peak; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def count_gflop(name: str, size: tuple[int, int]) -> float:
    """Of one image, a multiply-add counted as two."""
    with torch.device("meta"):
        model = network.create_model(name, num_classes=NUM_CLASSES, pretrained="none").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.low_res_logits(torch.empty(1, 3, *size))
    return counter.get_total_flops() / 1e9


def measure(backbone: str, args: argparse.Namespace, folder: Path) -> list[list[str]]:
    """The rows of one network."""
    name, ckpt = f"deeplabv3plus_{backbone}", folder / "weights.pth"
    model = workers.trained_model(name, num_classes=NUM_CLASSES, steps=args.train_steps)
    workers.save_checkpoint(model, ckpt)
    del model
    common = ["--ckpt", str(ckpt), "--size", *map(str, args.size)]
    missing = [x for x in PEERS if importlib.util.find_spec(x.split()[0]) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}", file=sys.stderr)
    cases = [*CASES, *(case for case in PEERS if case not in missing)]
    started = {case: workers.Worker("evaluate", [*common, "--case", case]) for case in cases}
    seconds = workers.alternate(started, rounds=args.rounds)
    gflop = count_gflop(name, args.size)
    expected = np.load(folder / f"{workers.PREDECESSOR}.npy")
    commonest = np.bincount(expected.ravel()).max() / expected.size
    print(f"{name}: the commonest label has {100 * commonest:.0f} % of the pixels", file=sys.stderr)
    rows = []
    for case in cases:
        equal = (np.load(folder / f"{case}.npy") == expected).mean()
        speed = gflop / float(np.median(seconds[case]))
        row = [backbone, case, *workers.timing_cells(seconds, case), f"{gflop:.0f}", f"{speed:.0f}"]
        row.append(f"{100 * equal:.4f} %")
        if args.memory:
            worker = workers.Worker("evaluate", [*common, "--case", case, "--memory"])
            row.append(f"{worker.run()['mib']:.0f}")
            worker.close()
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mobilenet", "hrnetv2_48"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--train_steps", type=int, default=80)
    parser.add_argument("--memory", action="store_true")
    for name in ("--worker", "--case", "--ckpt"):  # of the processes it starts
        extra: dict[str, Any] = {"action": "store_true"} if name == "--worker" else {}
        parser.add_argument(name, help=argparse.SUPPRESS, **extra)
    args = parser.parse_args()
    if args.worker:
        work(args.case, Path(args.ckpt), tuple(args.size), memory=args.memory)
        return
    rows = []
    for backbone in args.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(backbone, args, Path(folder))
    height, width = args.size
    print(
        f"1x3x{height}x{width} -> labels, {NUM_CLASSES} classes; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds"
    )
    header = ["network", "case", "median s", "min..max", "speed-up", "GFLOP", "GFLOP/s", "equal"]
    workers.print_table(header + ["pass, MiB"] * args.memory, rows)


if __name__ == "__main__":
    main()
