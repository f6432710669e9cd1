"""Two real processes over gloo, as torchrun starts them; and a world of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from utils.runtime import distributed
from utils.runtime.distributed import World, is_peer_failure, speaks

ROOT = Path(__file__).parents[3]

# Each of the two prints what it saw as one JSON line. At the end one fails, as main.py would.
PROCESS = """
import json, os, sys, time
import torch
from torch import nn
from utils.runtime import distributed
from utils.runtime.distributed import is_peer_failure, speaks

class Unsendable(OSError):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

world = distributed.start("cpu", "0", torchrun_hint="")
rank, seen = world.rank, {}
value = torch.tensor([1.0 + rank, 10.0])
seen["sum"] = world.sum(value).tolist()
seen["value after"] = value.tolist()
seen["any"] = [world.any(False), world.any(rank == 1), world.any(rank == 0), world.any(True)]
seen["gather"] = world.gather({"rank": rank})
seen["sizes"] = [world.size, world.local_size, world.sync_batchnorm]

order = []
def fetch():
    order.append(time.monotonic())
    time.sleep(0.2 * world.is_main)
    return f"by {rank}"
seen["main first"] = world.main_first(fetch)
times = world.gather(order)
seen["in order"] = times[1][0] >= times[0][0] + 0.2

def failing(error, *ranks):
    def function():
        if rank in ranks:
            raise error
        return "fine"
    try:
        return world.main_first(function)
    except Exception as caught:
        return [type(caught).__name__, str(caught), speaks(caught)]
seen["main failed"] = failing(FileNotFoundError(2, "not there", "x.pth"), 0)
seen["other failed"] = failing(ValueError("only here"), 1)
seen["both failed"] = failing(ValueError("in both"), 0, 1)
seen["unsendable"] = failing(Unsendable("one", "two"), 0)
seen["afterwards"] = world.main_first(lambda: "fine")

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
model[1].running_mean.fill_(rank + 1.0)
wrapped = world.wrap(model)
def gradient(now):
    with world.shares_gradients(wrapped, now):
        wrapped(torch.tensor([[1.0, 2.0], [3.0, 5.0]]) * (1 + rank)).square().sum().backward()
gradient(False)
before = model[0].weight.grad.tolist()
seen["not yet shared"] = world.gather(before)[0] != world.gather(before)[1]
gradient(True)
grads = world.gather(model[0].weight.grad.tolist())
seen["one copy"] = model[0].weight.grad.untyped_storage().nbytes() > model[0].weight.grad.nbytes
seen["shared"] = grads[0] == grads[1]
seen["own statistics"] = len(set(map(str, world.gather(model[1].running_mean.tolist())))) == 2
world.share_buffers(model)
seen["shared statistics"] = len(set(map(str, world.gather(model[1].running_mean.tolist())))) == 1

from utils.training.step import OptimizerStep
from utils.scheduler import StepLR
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
update = OptimizerStep(model, optimizer, StepLR(optimizer, 99), max_bad_steps=9, world=world)
weight = model[0].weight.tolist()
for step in (1, 2):
    update.before_forward()
    gradient(True)
    update.update(step, torch.tensor(float("nan") if (rank, step) == (1, 1) else 1.0))
    seen[f"moved {step}"] = model[0].weight.tolist() != weight
seen["bad"] = update.poll()
print(json.dumps(seen), flush=True)

world.wait()
if rank == 1:
    print("last words")  # a pipe keeps them back
    try:
        raise RuntimeError("a fault of its own")
    finally:
        distributed.leave(3)
begin, name = time.monotonic(), sys.argv[1]
try:
    for _ in range(3):
        world.any(False) if name == "any" else world.sum(torch.ones(1))
    print("no error")
except Exception as error:
    print(json.dumps([is_peer_failure(error), time.monotonic() - begin, str(error)]), flush=True)
distributed.leave(5)
"""


def two_processes(what_at_the_end: str) -> list[list[str]]:
    """The lines that each of two processes prints."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, what_at_the_end],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        done = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [5, 3], done
    assert done[1][0].endswith("\nlast words\n")
    assert done[1][1].count("RuntimeError: a fault of its own") == 1
    return [output.splitlines() for output, _ in done]


@pytest.fixture(scope="module")
def printed() -> list[list[str]]:
    return two_processes("any")


@pytest.fixture(scope="module")
def seen(printed: list[list[str]]) -> list[dict]:
    return [json.loads(lines[0]) for lines in printed]


def test_values_flags_and_objects_reach_all(seen: list[dict]) -> None:
    for rank, one in enumerate(seen):
        assert one["sum"] == [3.0, 20.0]
        assert one["value after"] == [1.0 + rank, 10.0]
        assert one["any"] == [False, True, True, True]
        assert one["gather"] == [{"rank": 0}, {"rank": 1}]
        assert one["sizes"] == [2, 2, False]


def test_the_main_process_goes_first_and_errors_are_everybodys(seen: list[dict]) -> None:
    for rank, one in enumerate(seen):
        assert one["main first"] == f"by {rank}"
        assert one["in order"] is True
        text = "[Errno 2] not there: 'x.pth'"
        assert one["main failed"][1:] == [text, rank == 0]
        assert one["other failed"] == ["ValueError", "only here", rank == 1]
        assert one["both failed"] == ["ValueError", "in both", rank == 0]
        assert one["unsendable"][1:] == ["one and two", rank == 0]
        assert one["afterwards"] == "fine"
    for error, own in (("main failed", "FileNotFoundError"), ("unsendable", "Unsendable")):
        assert [one[error][0] for one in seen] == [own, "ValueError"]


def test_gradients_are_shared_with_the_last_batch_and_statistics_when_asked(
    seen: list[dict],
) -> None:
    for one in seen:
        for what in ("not yet shared", "shared", "own statistics", "shared statistics", "one copy"):
            assert one[what] is True, what


def test_one_processs_bad_step_is_everybodys(seen: list[dict]) -> None:
    for one in seen:
        assert (one["moved 1"], one["moved 2"], one["bad"]) == (False, True, 1)


def test_a_dead_process_is_noticed_at_once(printed: list[list[str]]) -> None:
    recognized, seconds, text = json.loads(printed[0][1])
    assert recognized, text
    assert seconds < 30


@pytest.mark.slow  # waits for a time-out of the network
def test_a_dead_process_is_noticed_in_the_exchange_of_tensors_too() -> None:
    recognized, seconds, text = json.loads(two_processes("sum")[0][1])
    assert recognized and seconds < 30, text


def test_a_world_of_one_is_itself() -> None:
    world = World(0, 1, torch.device("cpu"))
    value, model = torch.ones(2), nn.Linear(1, 1)
    assert world.sum(value) is value
    assert (world.any(True), world.any(False), world.gather(3)) == (True, False, [3])
    assert world.main_first(lambda: 5) == 5 and world.wrap(model) is model
    assert not world.sync_batchnorm and world.local_size == 1
    with world.shares_gradients(model, False):
        world.wait()
    with pytest.raises(KeyError):
        world.main_first(lambda: {}["not there"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:12345"), True),
        (RuntimeError("[pair.cc:547] Read error [127.0.0.1]:1: Connection reset by peer"), True),
        (RuntimeError("[pair.cc:123] write: Broken pipe"), True),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), True),
        (RuntimeError("ncclRemoteError: a remote process exiting prematurely"), True),
        (RuntimeError("Failed to recv, got 0 bytes. Connection was likely closed."), True),
        (
            RuntimeError("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(OpType="),
            True,
        ),
        (torch.distributed.DistStoreError("wait timeout after 1800000ms, keys: /a"), True),
        (RuntimeError("CUDA error: the launch timed out and was terminated"), False),
        (RuntimeError("ncclUnhandledCudaError: Cuda failure 'the launch timed out'"), False),
        (RuntimeError("CUDA driver error: connection lost to the device"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_TIMEOUT"), False),
        (RuntimeError("The tool timed out"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # a server's, not a process's
    ],
)
def test_what_says_that_another_process_is_gone(
    error: Exception, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_peer_failure(error) is expected
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_peer_failure(error)


def test_one_process_a_machine_speaks_of_what_all_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for local_rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert speaks(ValueError("an unknown option")) is (local_rank == "0")


@pytest.mark.parametrize(
    ("device", "gpu_id", "expected"),
    [
        ("cpu", "0,1", "one process uses one GPU; for several GPUs run: torchrun x"),
        ("cpu", "first", "must be a number"),
        ("tpu", "0", "must be auto, cpu, cuda, cuda:N or mps"),
        ("cuda:99", "0", "there is no GPU 99: this machine has"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(device: str, gpu_id: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        distributed.start(device, gpu_id, torchrun_hint="torchrun x")


def test_all_buffers_of_a_type_travel_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def broadcast(tensor: torch.Tensor, source: int) -> None:
        sent.append((tensor.dtype, tensor.numel(), source))
        tensor += 1

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    World(0, 2, torch.device("cpu")).share_buffers(model)
    assert sent == [(torch.float32, 10, 0), (torch.int64, 2, 0)]
    for layer in (model[0], model[2]):
        assert layer.running_mean.tolist() == [1] * layer.num_features
        assert layer.running_var.tolist() == [2] * layer.num_features
        assert layer.num_batches_tracked == 1


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("code", "expected"), [(0, ["destroyed"]), (1, [1]), (130, [130])])
def test_only_an_orderly_end_takes_leave_of_the_others(
    code: int, expected: list[str | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | int] = []

    def end(code: int) -> None:
        seen.append(code)
        raise Ended

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed, "destroy_process_group", lambda: seen.append("destroyed")
    )
    monkeypatch.setattr(os, "_exit", end)
    try:
        distributed.leave(code)
    except Ended:
        assert code
    assert seen == expected


def test_gpus_wait_half_an_hour_for_each_other_and_flags_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, timedelta]] = []

    def new_group(*, backend: str, timeout: timedelta) -> None:
        asked.append((backend, timeout))
        raise Ended

    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, timeout: asked.append((backend, timeout)),
    )
    monkeypatch.setattr(torch.distributed, "new_group", new_group)
    monkeypatch.setattr(distributed, "pick_device", lambda *_, **__: torch.device("cuda", 0))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Ended):
        distributed.start("cuda", "0", torchrun_hint="")
    assert [backend for backend, _ in asked] == ["nccl", "gloo"]
    assert asked[0][1] <= timedelta(minutes=30) < timedelta(hours=12) < asked[1][1]
