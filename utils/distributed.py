"""One process or many: what `torchrun` starts works together, a lone process is a world of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """The processes of this run; ``rank`` 0 writes files and talks."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print ``text``, in one process."""
        if self.is_main:
            print(text, flush=True)

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` with gradients averaged over processes; unchanged in a world of one."""
        if self.size == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[self.device.index] if self.device.type == "cuda" else None
        )

    def mean(self, value: Tensor) -> Tensor:
        """Mean of ``value`` over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank, in all of them."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the BatchNorm statistics of rank 0, so that all validate alike."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


def pick_device(device: str, gpu_id: str, *, local_rank: int, torchrun_hint: str) -> torch.device:
    """The device of this process.

    Raises ValueError where the name is unknown, the device is absent, or ``gpu_id`` lists several.
    """
    if "," in gpu_id:
        raise ValueError(
            f"--gpu_id {gpu_id}: one process drives one GPU; for several run: {torchrun_hint}"
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
        raise ValueError("--device mps: this machine has none; use --device cpu")
    if chosen.type != "cuda":
        return chosen
    if chosen.index is None:
        index = local_rank if "LOCAL_RANK" in os.environ else int(gpu_id)
        chosen = torch.device("cuda", index)
    if chosen.index >= torch.cuda.device_count():
        raise ValueError(
            f"GPU {chosen.index}: this machine shows {torch.cuda.device_count()}; "
            "choose with --gpu_id, or use --device cpu"
        )
    torch.cuda.set_device(chosen)
    return chosen


def start(device: str, gpu_id: str, *, torchrun_hint: str) -> World:
    """The world this process belongs to, from torchrun's environment variables if they are set."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = pick_device(device, gpu_id, local_rank=local_rank, torchrun_hint=torchrun_hint)
    if size > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return World(rank, size, chosen)
