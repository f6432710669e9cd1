"""Shared by evaluate.py and predict.py: cases in processes of their own, timed in turn.

The allocator's settings belong to a process, so each case has one; it waits for its turn on stdin
and answers in JSON on stdout.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import network
from datasets.shapes import Shapes
from network import upsampled_conv

PREDECESSOR = "predecessor"


class Worker:
    """A process that runs one case of a benchmark whenever it is told to.

    It is killed after so many `seconds`; whoever waits for its answer gets a SystemExit.
    """

    def __init__(
        self, benchmark: str, arguments: Sequence[str], *, seconds: float | None = None
    ) -> None:
        command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--worker", *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        if seconds is not None:
            timer = threading.Timer(max(seconds, 0), self.process.kill)
            timer.daemon = True
            timer.start()
        self.answer()  # ready

    def answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with exit code {self.process.wait()}")
        return json.loads(line)

    def run(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(case: Callable[[], Mapping[str, float]]) -> None:
    """The worker's side: run `case` for each line that comes."""
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(case()), flush=True)


def alternate(workers: Mapping[str, Worker], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round; a first round warms up. The workers end."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            result = worker.run()
            if number:
                seconds[name].append(result["seconds"])
    for worker in workers.values():
        worker.close()
    return seconds


def timing_cells(seconds: Mapping[str, list[float]], name: str, *, unit: float = 1) -> list[str]:
    """Median, spread, and how many times as fast as the predecessor in the same round."""
    own = [value * unit for value in seconds[name]]
    pairs = zip(seconds[PREDECESSOR], seconds[name], strict=True)
    ratio = statistics.median(old / new for old, new in pairs)
    return [f"{statistics.median(own):.4g}", f"{min(own):.4g}..{max(own):.4g}", f"{ratio:.2f}x"]


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table; the first two columns are text."""
    marks = ["---" if index < 2 else "---:" for index in range(len(header))]
    for row in [header, marks, *rows]:
        print("| " + " | ".join(row) + " |")


def mosaic(height: int, width: int, *, first: int = 0) -> np.ndarray:
    """Pictures of the shapes data set side by side: (H,W,3) uint8, as fine as in training."""
    pictures = Shapes("val")
    rows, columns = -(-height // pictures.size[0]), -(-width // pictures.size[1])
    indices = first + np.arange(rows * columns).reshape(rows, columns)
    lines = [
        np.concatenate([np.asarray(pictures.load(int(i))[0]) for i in row], axis=1)
        for row in indices
    ]
    return np.concatenate(lines)[:height, :width]


def trained_model(
    name: str, *, num_classes: int, steps: int, device: torch.device | str = "cpu"
) -> network.DeepLabV3:
    """A network after some steps on the shapes: scores of random weights are chaotic."""
    torch.manual_seed(0)
    model = network.create_model(name, num_classes=num_classes, pretrained="none")
    model = model.train().to(device)
    normalize = network.Normalize(model.mean, model.std).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pictures = Shapes("train")
    for step in range(steps):
        pairs = [pictures.load(4 * step + index) for index in range(4)]
        images, labels = (
            torch.stack([torch.tensor(np.array(x)) for x in part]).to(device)
            for part in zip(*pairs, strict=True)
        )
        loss = F.cross_entropy(model(normalize(images.permute(0, 3, 1, 2))), labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{name}: {steps} steps on the shapes, loss {loss.item():.2f}", file=sys.stderr)
    return model.eval()


def convolve_upsampled() -> None:
    """From now on networks in this process convolve upsampled maps, as the predecessor's do."""
    upsampled_conv.works_on_coarse = lambda x: False


def save_checkpoint(model: network.DeepLabV3, path: Path) -> None:
    """As main.py writes it, as far as prediction needs it."""
    palette = torch.from_numpy(Shapes.facts.palette.copy())
    num_classes = model.build_args["num_classes"]
    content = {
        "format": network.pretrained.FORMAT,
        "model_name": model.name,
        "build_args": model.build_args,
        "class_names": [f"class {index}" for index in range(num_classes)],
        "palette": palette,
        "mean": list(model.mean),
        "std": list(model.std),
        "model_state": model.state_dict(),
    }
    torch.save(content, path)
