"""How long does the training wait for the dashboard? Prints the time of a call of its tracker.

python -m benchmarks.dashboard [--calls 2000]

A call is what the training makes at each report, after 20,000 earlier ones; every hundredth is
followed by the calls after a validation with four samples. Once there is a healthy server, once
none, once one that is stopped (SIGSTOP), and once one whose answer never ends.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluate import resident_mib
from utils.visualizer import SCORE, Dashboard, ValidatedSample

NAMES = [f"class {number}" for number in range(19)]
VISDOM = "from visdom.server.run_server import main; main()"
SERVERS = ("live", "dead", "frozen", "endless")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def visdom(*, frozen: bool) -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", VISDOM, "-port", str(port), "-bind_local"]
        process = subprocess.Popen(
            [*command, "-env_path", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(6)
        if frozen:
            process.send_signal(signal.SIGSTOP)
        yield port
        process.kill()
        process.wait()


@contextmanager
def endless() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, suppress(OSError):
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        client.sendall(b"x" * 2**20)

    threading.Thread(target=run, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@contextmanager
def server(kind: str) -> Iterator[int]:
    if kind == "dead":
        yield free_port()
        return
    with endless() if kind == "endless" else visdom(frozen=kind == "frozen") as port:
        yield port


def train(tracker: Any, step: int) -> None:
    values = {"loss": 1.0, "lr": 0.1, "lr backbone": 0.01, "images/s": 9.0, "data wait": 0.01}
    tracker.scalars(step, values)


def past(tracker: Any) -> None:
    for step in range(20_000):
        train(tracker, step)


def measure(kind: str, calls: int) -> list[float]:
    """Milliseconds of each call."""
    pixels = np.random.default_rng(0).integers(0, 255, (384, 512, 3), dtype=np.uint8)
    labels = (pixels[..., 0] % 19).astype(np.uint8)
    samples = [ValidatedSample(str(n), pixels, labels, labels, 0.5, 0.1) for n in range(4)]
    counts, palette = np.ones((19, 19), np.int64), pixels.reshape(-1, 3)[:256]
    rows = [{"class": name, "IoU": 0.5, "pixels": 9} for name in NAMES]
    seconds: list[float] = []
    with server(kind) as port, tempfile.TemporaryDirectory() as folder:
        dashboard = Dashboard("benchmark", folder=Path(folder), port=port, tell_past=past)
        for step in range(20_000, 20_000 + calls):
            jobs = [lambda step=step: train(dashboard, step)]
            if step % 100 == 0:
                jobs.append(lambda step=step: dashboard.scalars(step, {SCORE: 0.5}))
                jobs.append(lambda step=step: dashboard.table("classes", step, rows))
                jobs.append(lambda step=step: dashboard.confusion(step, counts, NAMES))
                jobs.append(lambda step=step: dashboard.samples(step, samples, NAMES, palette))
            for job in jobs:
                begin = time.perf_counter()
                job()
                seconds.append(time.perf_counter() - begin)
            time.sleep(0.01)
        dashboard.finish(limit=0.1)
    return [1000 * value for value in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="default: %(default)s")
    calls = parser.parse_args().calls
    print("| server | median, ms | p99, ms | slowest, ms | memory, MiB |\n|---|---|---|---|---|")
    for kind in SERVERS:
        times = measure(kind, calls)
        median, p99 = np.percentile(times, [50, 99])
        cells = f"{median:.3f} | {p99:.3f} | {max(times):.1f} | {resident_mib('VmHWM'):.0f}"
        print(f"| {kind} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
