"""What a run survives: signals, NaN losses, damaged checkpoints and a full disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shlex
import shutil
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import main
from tests.helpers import (
    NAME,
    Args,
    assert_same_end,
    read,
    start_command,
    step_losses,
)
from utils.loss import Criterion
from utils.runtime import checkpoint
from utils.visualizer import Progress

pytestmark = pytest.mark.usefixtures("no_figures")

STEPS = "--total_itrs 6 --val_interval 3".split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """The folder of an undisturbed run of 6 steps; the data of all tests is the same."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def get(arguments: list[str]) -> Path:
        if not (folder / NAME).exists():
            assert main.main([*arguments, *STEPS, "--output_dir", str(folder)]) == 0
        return folder

    return get


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Have `action` called in the middle of that step."""
    count = Progress.count

    def counting(progress: Progress, num_images: int) -> None:
        count(progress, num_images)
        if progress.step + 1 == step:
            action()

    monkeypatch.setattr(Progress, "count", counting)


# --- signals -------------------------------------------------------------------------------------


def printed_command(output: str) -> list[str]:
    """The arguments of the last line that says how to go on."""
    line = [line for line in output.splitlines() if "--continue_training" in line][-1]
    python, program, *arguments = shlex.split(line)
    assert (python, program) == ("python", "main.py")
    return arguments


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_saves_and_says_how_to_go_on(
    name: str,
    voc_args: Args,
    undisturbed: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = undisturbed(voc_args()), tmp_path / "two words"
    arguments = voc_args(*STEPS, "--output_dir", str(out))
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), getattr(signal, name)))
        assert main.main(arguments) == 0
    output = capsys.readouterr().out
    assert f"stopped after step 2 of 6: {name} came; to continue:" in output
    assert read(out)["cur_itrs"] == 2
    assert main.main(printed_command(output)) == 0
    assert_same_end(whole, out)


@pytest.mark.slow  # starts a process
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_asked_to_stop_goes_on_by_the_printed_command(
    voc_args: Args, undisturbed: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    whole = undisturbed(voc_args())
    process = start_command(voc_args(*STEPS, "--num_workers", "1"))
    path = tmp_path / "out" / NAME / "history.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and '"step": 2' in path.read_text():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "SIGTERM came" in output and "Traceback" not in error
    assert main.main(printed_command(output)) == 0
    assert_same_end(whole, tmp_path / "out")


def test_a_second_interrupt_ends_at_once(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 2, twice)
    assert main.main(voc_args(*STEPS)) == 130
    error = capsys.readouterr().err
    assert error == "main.py: interrupted; nothing was saved yet\n"


@pytest.mark.slow  # starts a process
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_closed_connection_saves(
    voc_args: Args, undisturbed: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    """The terminal is gone, so its processes get SIGHUP, and nothing can be printed any more."""
    whole, (ours, theirs) = undisturbed(voc_args()), os.openpty()
    code = "import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    process = start_command(voc_args(*STEPS), code=code, terminal=theirs)
    os.close(theirs)
    path = tmp_path / "out" / NAME / "history.jsonl"
    while process.poll() is None and not (path.exists() and '"step": 2' in path.read_text()):
        time.sleep(0.01)
    os.close(ours)
    assert process.wait(120) == 0
    assert 2 <= read(tmp_path / "out")["cur_itrs"] < 6
    assert main.main(voc_args(*STEPS, "--continue_training")) == 0
    assert_same_end(whole, tmp_path / "out")


# --- what others do to a run's files and processes -----------------------------------------------


def test_a_run_whose_folder_is_deleted_goes_on_and_loses_no_history(
    voc_args: Args,
    undisturbed: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = undisturbed(voc_args()), tmp_path / "out"
    at_step(monkeypatch, 5, lambda: shutil.rmtree(out / NAME))
    assert main.main(voc_args(*STEPS)) == 0
    assert capsys.readouterr().err.count("deleted during the run; it was written anew") == 1
    assert_same_end(whole, out)
    assert {path.name for path in (out / NAME).iterdir()} >= {"options.json", "samples"}


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_loader_process_is_told_as_that(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill_workers() -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)

    at_step(monkeypatch, 2, kill_workers)
    more = ["--num_workers", "1", "--save_interval", "1", "--total_itrs", "99"]
    assert main.main(voc_args(*more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py: error: ") and error.count("\n") == 1
    assert "loader process" in error and "out of memory;" not in error
    assert "--continue_training" in error and "--batch_size" not in error


def test_a_name_that_is_no_text_and_two_lines_long(
    voc_args: Args, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out\udcff\ntwo"
    arguments = voc_args("--total_itrs", "1", "--output_dir", str(out))
    assert main.main(arguments) == 0
    assert main.main([*arguments, "--continue_training", "--total_itrs", "2"]) == 0
    output, error = capsys.readouterr()
    assert error == "" and output.count("/out\\udcff\\ntwo/") == 9
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "/out\\udcff\\ntwo/latest_" in error
    assert read(out)["cur_itrs"] == 2


# --- NaN -----------------------------------------------------------------------------------------


def spoil_loss(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> None:
    """Make the loss NaN, with gradients, in the training steps of which `is_bad`."""
    forward, calls = Criterion.forward, [0]

    def spoilt(self: Criterion, outputs: object, labels: Tensor, **options: Tensor) -> Tensor:
        loss = forward(self, outputs, labels, **options)
        if loss.requires_grad:
            calls[0] += 1
            loss = loss * float("nan") if is_bad(calls[0]) else loss
        return loss

    monkeypatch.setattr(Criterion, "forward", spoilt)


def test_one_bad_step_leaves_no_trace(
    voc_args: Args,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_loss(monkeypatch, lambda step: step == 3)
    assert main.main(voc_args("--total_itrs", "4", "--save_interval", "1")) == 0
    assert "step 3: skipped 1 step(s) with a NaN or infinite loss" in capsys.readouterr().out
    out = tmp_path / "out"
    assert [loss is None for loss in step_losses(out)] == [False, False, True, False]
    state = read(out)["model_state"]
    assert all(tensor.isfinite().all() for tensor in state.values())
    tracked = [v for k, v in state.items() if k.endswith("num_batches_tracked")]
    assert tracked and all(int(value) == 3 for value in tracked)


def test_too_many_bad_steps_name_step_images_and_checkpoint(
    voc_args: Args,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_loss(monkeypatch, lambda step: step >= 3)
    seen: list[list[str]] = []
    at_step(monkeypatch, 5, lambda: seen.append([]))
    assert main.main(voc_args("--total_itrs", "9", "--max_bad_steps", "2")) == 1
    error = capsys.readouterr().err
    latest = tmp_path / "out" / f"latest_{NAME}.pth"
    assert error.startswith("main.py: error: ") and error.count("\n") == 1
    assert "in 3 steps in a row, last in step 5; --max_bad_steps allows 2; its images: " in error
    assert f"the last good checkpoint is {latest}; lower --lr" in error
    assert seen and error.count("img_") == 2
    assert all(v.isfinite().all() for v in read(tmp_path / "out")["model_state"].values())


# --- damaged checkpoints -------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9999])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, int]:
    """A checksum of each file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): zlib.crc32(path.read_bytes()) for path in files}


@pytest.mark.parametrize("damage", [cut, pytest.param(flip, marks=pytest.mark.slow)])
def test_a_damaged_latest_gives_way_to_the_one_before(
    damage: Callable[[Path], None],
    voc_args: Args,
    undisturbed: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = undisturbed(voc_args()), tmp_path / "out"
    arguments = voc_args(*STEPS, "--save_interval", "1")
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main.main(arguments) == 0
    assert [read(out, kind)["cur_itrs"] for kind in ("latest", "latest.1")] == [4, 3]
    assert not (out / f"latest_{NAME}.2.pth").exists()
    damage(out / f"latest_{NAME}.pth")
    capsys.readouterr()
    assert main.main([*arguments, "--continue_training"]) == 0
    output = capsys.readouterr().out
    assert (
        f"training continues from the one before, {out / f'latest_{NAME}.1.pth'}, at step 3"
        in output
    )
    assert f"latest_{NAME}.pth" in output.split("training continues from the")[0]
    assert_same_end(whole, out)


def test_when_all_are_damaged_nothing_is_touched(
    voc_args: Args, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(voc_args("--total_itrs", "2", "--save_interval", "1")) == 0
    out = tmp_path / "out"
    paths = [out / f"latest_{NAME}.pth", out / f"latest_{NAME}.1.pth"]
    cut(paths[0]), flip(paths[1])
    before = contents(out)
    capsys.readouterr()
    assert main.main(voc_args("--total_itrs", "3", "--continue_training")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(str(path) in error for path in paths)
    assert f"give --ckpt {out / f'best_{NAME}.pth'}" in error
    assert contents(out) == before


# --- a full disk ---------------------------------------------------------------------------------


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """Have the disk full while the checkpoints of `step` are written."""
    save = torch.save

    def saving(state: dict, file: object) -> None:
        if state["cur_itrs"] == step:
            file.write(b"as far as it goes")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", saving)


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint(
    voc_args: Args,
    undisturbed: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = undisturbed(voc_args())
    fill_disk(monkeypatch, step=4)
    assert main.main(voc_args(*STEPS, "--save_interval", "1")) == 0
    output = capsys.readouterr().out
    assert output.count("not saved: ") == 1 and os.strerror(errno.ENOSPC) in output
    assert read(tmp_path / "out", "latest.1")["cur_itrs"] == 5
    assert_same_end(whole, tmp_path / "out")


def test_a_disk_full_at_the_end_is_an_error(
    voc_args: Args,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill_disk(monkeypatch, step=4)
    assert main.main(voc_args("--total_itrs", "4", "--save_interval", "1")) == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py: error: ") and error.count("\n") == 1
    assert os.strerror(errno.ENOSPC) in error
    assert read(tmp_path / "out")["cur_itrs"] == 3
    assert not list((tmp_path / "out").glob("*.tmp"))
