"""One process or many: those that `torchrun` starts work together; one alone is a world of one."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.runtime.buffers import buffer_groups, flat_buffers, set_buffers
from utils.runtime.console import say

Result = TypeVar("Result")

# How long the others wait while one process downloads or writes. They notice a dead process at
# once, since its connections close.
PATIENCE = timedelta(days=1)

# How long the others wait for a gradient while the main process saves. NCCL notices the death of a
# process on another machine only after this time.
SLOW_SAVE = timedelta(minutes=30)

# What gloo, NCCL and the store say when another process is gone.
PEER_FAILURE = re.compile(
    r"connection (was )?(likely )?(closed|reset|refused|lost)|broken pipe"
    r"|timed out (waiting|after|\(try)|operation timed out|timeout waiting"
    r"|(operation|application|socket|connect|wait|read|write) timeout"
    r"|remote process|ncclRemoteError|communicator was aborted|got 0 bytes",
    re.IGNORECASE,
)
# What a GPU says of itself, also where NCCL passes it on: "CUDA error: the launch timed out".
GPU_FAILURE = re.compile(r"\bcuda\b.{0,8} (error|failure)|\bcu(dnn|blas)_status", re.IGNORECASE)


@dataclass(frozen=True)
class World:
    """The processes of this run; the one of `rank` 0 writes files and prints."""

    rank: int
    size: int
    device: torch.device
    local_size: int = 1  # processes on this machine
    control: dist.ProcessGroup | None = None  # on the CPU, so that flags wait for no GPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def sync_batchnorm(self) -> bool:
        """Whether BatchNorm counts the images of all processes, which torch cannot do on a CPU."""
        return self.size > 1 and self.device.type == "cuda"

    def say(self, text: str) -> None:
        """Print `text` in one process."""
        if self.is_main:
            say(text)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with gradients averaged over the processes; unchanged in a world of one.

        Wrap it again when more parameters are trained than before.
        """
        if self.size == 1:
            return model
        if self.sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # torch 2.15 renamed this argument; earlier ones do not know the new name.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            # Training reads no buffer, and share_buffers() sends rank 0's before a validation.
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=devices,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,  # no second copy of the gradients
            )

    def shares_gradients(self, model: nn.Module, now: bool) -> AbstractContextManager[Any]:
        """The context for one batch of a step: gradients travel with the last one (`now`)."""
        if now or not isinstance(model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return model.no_sync()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over the processes; does not wait for the device."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process; waits for the processes, not for their GPUs."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        return bool(flags)

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank; every process gets the list."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def main_first(self, function: Callable[[], Result]) -> Result:
        """Call `function` in the main process, then in the others, which find what it downloaded.

        After an OSError or ValueError in one process, the others raise a ValueError of the same
        text, so that none waits on.
        """
        results: list[Result] = []
        failure: OSError | ValueError | None = None
        for turn in (True, False):
            if self.is_main == turn:
                try:
                    results.append(function())
                except (OSError, ValueError) as error:
                    failure = error
            failures = self.gather(None if failure is None else str(failure))
            first = next((rank for rank, other in enumerate(failures) if other is not None), None)
            if first is not None:
                raised: Any = failure or ValueError(failures[first])
                raised.speaker = first
                raise raised
        return results[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Send rank 0's BatchNorm statistics to every process, so that all validate alike."""
        if self.size > 1:
            groups = buffer_groups(model)
            values = flat_buffers(groups)
            for flat in values:
                dist.broadcast(flat, 0)
            set_buffers(groups, values)

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            dist.barrier(group=self.control)


ALONE = World(0, 1, torch.device("cpu"))  # for what needs no network


def speaks(error: BaseException) -> bool:
    """Whether this process should print `error`, which other processes may have met, too.

    The first process that failed prints an error that main_first() shared. One process on each
    machine prints any other error, since files may be missing on one machine only.
    """
    speaker = getattr(error, "speaker", None)
    if speaker is None:
        return int(os.environ.get("LOCAL_RANK", 0)) == 0
    return speaker == int(os.environ.get("RANK", 0))


def leave(code: int) -> None:
    """Leave the world, if this process is in one, at the end of a program with exit code `code`.

    After a failure this ends the process at once: other processes may be gone or busy, and an
    orderly end would wait for them, or crash.
    """
    if not dist.is_initialized():
        return
    if code == 0:
        dist.destroy_process_group()
        return
    if sys.exc_info()[0] is not None:  # an error is on its way out; nobody else would print it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_peer_failure(error: BaseException) -> bool:
    """Whether `error` only says that another process of the run is gone."""
    if not isinstance(error, RuntimeError) or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return False
    text = str(error)
    return PEER_FAILURE.search(text) is not None and GPU_FAILURE.search(text) is None


def pick_device(device: str, gpu_id: str, *, local_rank: int, torchrun_hint: str) -> torch.device:
    """The device of this process.

    Raises ValueError if the name is unknown, the device is absent, or `gpu_id` lists several.
    """
    if "," in gpu_id:
        raise ValueError(
            f"--gpu_id {gpu_id}: one process uses one GPU; for several GPUs run: {torchrun_hint}"
        )
    if not gpu_id.isdigit():
        raise ValueError(f"--gpu_id {gpu_id!r}: must be a number, as shown by nvidia-smi")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device {device!r}: must be auto, cpu, cuda, cuda:N or mps")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: this machine has no such device; use --device cpu")
    if chosen.type != "cuda":
        return chosen
    if chosen.index is None:
        index = local_rank if "LOCAL_RANK" in os.environ else int(gpu_id)
        chosen = torch.device("cuda", index)
    elif int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"--device {device}: all processes of this machine would use one GPU; use --device cuda"
        )
    if chosen.index >= torch.cuda.device_count():
        raise ValueError(
            f"there is no GPU {chosen.index}: this machine has {torch.cuda.device_count()}; "
            "choose another with --gpu_id, or use --device cpu"
        )
    torch.cuda.set_device(chosen)
    return chosen


def start(device: str, gpu_id: str, *, torchrun_hint: str) -> World:
    """The world of this process, read from the environment variables that torchrun sets."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = pick_device(device, gpu_id, local_rank=local_rank, torchrun_hint=torchrun_hint)
    if size == 1:
        return World(rank, size, chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=SLOW_SAVE)
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(control, dist.ProcessGroup)  # it has every process in it
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return World(rank, size, chosen, local_size=local_size, control=control)
