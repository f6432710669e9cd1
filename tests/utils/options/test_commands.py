"""Commands handed to the user to type."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

import pytest

from utils.options import command_line, resume_command, torchrun_command


@pytest.mark.parametrize("gpus", ["--gpu_id 0,1,2", "--gpu_id=0,1,2", "--gpu_id '0,1,2'"])
def test_several_gpus_are_answered_by_a_torchrun_command(gpus: str) -> None:
    command = f"python main.py {gpus} --lr 0.1 --data_root 'my data'"
    expected = "torchrun --nproc_per_node 3 main.py --lr 0.1 --data_root 'my data'"
    assert torchrun_command(command, "0,1,2") == expected


@pytest.mark.parametrize(
    ("started", "processes", "goes_on"),
    [
        ("--lr 0.1", 1, "python main.py --lr 0.1 --continue_training"),
        ("--lr 0.1", 4, "torchrun --nproc_per_node 4 main.py --lr 0.1 --continue_training"),
        ("--ckpt a.pth --finetune --overwrite", 1, "python main.py --continue_training"),
        ("--ckpt=a.pth --pretrained b.pth", 1, "python main.py --continue_training"),
        ("--continue_training --lr 1", 1, "python main.py --lr 1 --continue_training"),
        ("--data_root 'my data'", 1, "python main.py --data_root 'my data' --continue_training"),
    ],
)
def test_what_goes_on_starts_from_the_runs_own_checkpoint(
    started: str, processes: int, goes_on: str
) -> None:
    assert resume_command(f"python main.py {started}", processes=processes) == goes_on


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", ["two words", "it's", "'\\", "a\udcffb", "é$x"])
def test_a_shell_reads_any_name_as_it_was(name: str) -> None:
    line = resume_command(command_line(["--output_dir", name]), processes=1)
    shell = ["bash", "-c", os.fsencode(f"printf '%s\\0' {line}")]
    read = subprocess.run(shell, stdout=subprocess.PIPE).stdout
    expected = ["python", "main.py", "--output_dir", name, "--continue_training"]
    assert read.split(b"\0")[:-1] == [os.fsencode(word) for word in expected]
    assert shlex.split(line) == expected


def test_a_command_is_one_line() -> None:
    line = resume_command(command_line(["--output_dir", "a\nb"]), processes=1)
    assert line == "python main.py --output_dir 'a\\nb' --continue_training"
