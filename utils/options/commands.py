"""Commands as the user types them: this one, on several GPUs, and the one that goes on."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as the user could type it again."""
    return shlex.join(["python", "main.py", *(sys.argv[1:] if argv is None else argv)])


def torchrun_command(command: str, gpu_ids: str) -> str:
    """``command`` started with torchrun, one process for each of ``gpu_ids`` (as in "0,1")."""
    arguments = re.sub(r"\s--gpu_id(=|\s+)\S+", "", command).removeprefix("python ")
    return f"torchrun --nproc_per_node {gpu_ids.count(',') + 1} {arguments}"


def resume_command(command: str, *, processes: int) -> str:
    """What the user types to go on with the run that ``command`` started."""
    words = shlex.split(command)
    for flag in ("--overwrite", "--finetune", "--continue_training"):
        words = [word for word in words if word != flag]
    for flag in ("--ckpt", "--pretrained"):
        while flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
        words = [word for word in words if not word.startswith(f"{flag}=")]
    resumed = shlex.join([*words, "--continue_training"])
    if processes == 1:
        return resumed
    return f"torchrun --nproc_per_node {processes} {resumed.removeprefix('python ')}"
