"""What several test files of the whole program use; fixtures are in conftest.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import network

ROOT = Path(__file__).parent.parent
NAME = "deeplabv3plus_mobilenet_voc_os16"
# What depends on the speed and the memory of the machine.
MEASURED = (
    "wall time",
    "images/s",
    "data wait",
    "time left",
    "peak memory",
    "validation seconds",
)
Args = Callable[..., list[str]]


def history(folder: Path, name: str = NAME) -> list[dict]:
    """The lines of a run's history without what depends on the machine's speed."""
    lines = (folder / name / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]


def step_losses(folder: Path, name: str = NAME) -> list[float]:
    """The training losses, one for each reported step."""
    return [line["loss"] for line in history(folder, name) if "loss" in line]


def read(folder: Path, kind: str = "latest", name: str = NAME) -> dict[str, Any]:
    """A run's checkpoint, `kind` latest, latest.1 or best."""
    which, _, number = kind.partition(".")
    return network.pretrained.read_file(folder / f"{which}_{name}{number and '.' + number}.pth")


def same(one: object, two: object) -> bool:
    """Whether two checkpoints hold the same, to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def assert_same_end(one: Path, two: Path, kinds: Sequence[str] = ("latest", "best")) -> None:
    """Two runs left the same checkpoints, but for how they were called, and the same history."""
    for kind in kinds:
        first, second = (read(folder, kind) for folder in (one, two))
        for key in ("command", "options"):
            first.pop(key), second.pop(key)
        different = [key for key in first | second if not same(first.get(key), second.get(key))]
        assert not different, f"{kind}: {different}"
    assert history(one) == history(two)


def start_command(
    arguments: Sequence[str], *, code: str = "", terminal: int | None = None
) -> subprocess.Popen[str]:
    """`python main.py` as its own process, one thread, on a terminal; `code` runs before it."""
    script = f"import sys; {code}\nimport main; sys.exit(main.main(sys.argv[1:]))"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE if terminal is None else terminal,
        text=True,
    )


def run_command(arguments: Sequence[str], *, code: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors of `start_command`."""
    process = start_command(arguments, code=code)
    output, error = process.communicate(timeout=300)
    return process.returncode, output, error


def torchrun(
    arguments: Sequence[str], *, script: Path | str = "main.py", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`torchrun` of two processes on this machine, on any free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, str(script), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


HOLDER = """
import os, sys, time
from pathlib import Path
from utils.runtime.lock import RunLock

lock = RunLock()
assert lock.acquire(Path(sys.argv[1])) is None
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
os.kill(child, 9)
lock.release()
"""


def lock_in_another_process(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin ends; it prints the pid of a child it forked.

    The child has its files, as loader processes do.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (path.exists() and path.read_text()) and process.poll() is None:
        time.sleep(0.01)
    return process
