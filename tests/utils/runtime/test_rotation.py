"""The latest checkpoints that are kept, damaged ones, and a disk that is full."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch

from network.pretrained import Checkpoint
from network.pretrained import read_file as read
from utils.runtime import checkpoint
from utils.runtime.files import atomic_write


def holding(step: int) -> dict:
    """The smallest checkpoint: one without a tensor is refused when it is read."""
    return {"cur_itrs": step, "model_state": {"weight": torch.zeros(1)}}


def files_after(tmp_path: Path, *, steps: int, keep: int) -> checkpoint.RunFiles:
    files = checkpoint.RunFiles(tmp_path, "r")
    for step in range(1, steps + 1):
        checkpoint.save_latest(
            {"cur_itrs": step, "weights": torch.full((1000,), step)}, files, keep=keep
        )
    return files


def steps_kept(files: checkpoint.RunFiles) -> dict[str, int]:
    return {path.name: read(path)["cur_itrs"] for path in sorted(files.output_dir.glob("*.pth*"))}


def newest(files: checkpoint.RunFiles) -> tuple[Path, Checkpoint, list[str]]:
    """Path and content of the checkpoint a run would continue from, and what is said about it."""
    notes: list[str] = []
    return (*checkpoint.newest_readable(files, read=read, notes=notes), notes)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (1, {"latest_r.pth": 5}),
        (2, {"latest_r.pth": 5, "latest_r.1.pth": 4}),
        (3, {"latest_r.pth": 5, "latest_r.1.pth": 4, "latest_r.2.pth": 3}),
    ],
)
def test_the_latest_are_kept(
    keep: int, expected: dict, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refused(*paths: Path) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    assert steps_kept(files_after(tmp_path, steps=5, keep=keep)) == expected


def test_fewer_are_kept_from_now_on(tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=6, keep=4)
    checkpoint.save_latest(holding(7), files, keep=2)
    assert steps_kept(files) == {"latest_r.pth": 7, "latest_r.1.pth": 6}


def test_one_of_the_same_step_takes_the_place_of_the_latest(tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=3, keep=2)
    checkpoint.save_latest({**holding(3), "validated": True}, files, keep=2, replaces=True)
    assert steps_kept(files) == {"latest_r.pth": 3, "latest_r.1.pth": 2}
    assert read(files.latest)["validated"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("moment", "number"),
    [("replace", 0), ("replace", 1), ("replace", 2), ("unlink", 0), ("link", 0)],
)
def test_an_end_at_any_moment_of_a_save_leaves_a_whole_latest_and_the_order(
    moment: str, number: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended before or after one of the calls that change names, and then saved on."""
    files = files_after(tmp_path, steps=5, keep=4)
    original, calls = getattr(os, moment), []

    def ending(*arguments: object, **settings: object) -> None:
        calls.append(arguments)
        if len(calls) - 1 == number and not after:
            raise SystemExit
        original(*arguments, **settings)
        if len(calls) - 1 == number:
            raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, moment, ending)
        checkpoint.save_latest(holding(6), files, keep=4)
    path, saved, notes = newest(files)
    is_done = (moment, number, after) == ("replace", 2, True)
    assert (path, saved["cur_itrs"], notes) == (files.latest, 6 if is_done else 5, [])
    for step in (7, 8):
        checkpoint.save_latest(holding(step), files, keep=4)
    steps = [read(path)["cur_itrs"] for path in (files.latest, *files.earlier)]
    assert steps[:2] == [8, 7] and steps == sorted(steps, reverse=True) and len(steps) <= 4


def killed_write(path: Path) -> Path:
    """The hidden file that a write to `path` leaves when its process is killed."""
    before = set(path.parent.iterdir())
    child = os.fork()
    if child == 0:
        with atomic_write(path) as file:
            file.write(b"half")
            os._exit(1)
    os.waitpid(child, 0)
    (left,) = set(path.parent.iterdir()) - before
    return left


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def change_a_bit(path: Path) -> None:
    """In the middle of a tensor, which torch.load takes as it is."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((100,), 5).numpy().tobytes())] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, change_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_latest_falls_back_to_the_one_before_and_says_so(damage, tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=5, keep=3)
    assert newest(files)[::2] == (files.latest, [])
    damage(files.latest)
    path, saved, notes = newest(files)
    assert (path.name, saved["cur_itrs"]) == ("latest_r.1.pth", 4)
    assert str(files.latest) in notes[0]
    assert notes[1:] == [f"training continues from the one before, {path}, at step 4"]

    files.make_latest(path)
    assert steps_kept(files) == {"latest_r.pth": 4, "latest_r.2.pth": 3}
    for step in (5, 6):
        checkpoint.save_latest(holding(step), files, keep=3)
    assert steps_kept(files) == {"latest_r.pth": 6, "latest_r.1.pth": 5, "latest_r.2.pth": 4}


def test_two_damaged_ones_go_when_the_third_is_made_the_latest(tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=5, keep=3)
    for path in (files.latest, files.earlier[0]):
        cut_short(path)
    path, saved, notes = newest(files)
    assert (path.name, saved["cur_itrs"], len(notes)) == ("latest_r.2.pth", 3, 3)
    files.make_latest(path)
    assert steps_kept(files) == {"latest_r.pth": 3}


def test_all_damaged_and_none_at_all_are_one_line(tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=2, keep=2)
    for path in (files.latest, *files.earlier):
        cut_short(path)
    with pytest.raises(ValueError, match="latest_r.pth .*latest_r.1.pth .*give --ckpt") as error:
        newest(files)
    assert "\n" not in str(error.value)
    files.delete_run()
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nothing was saved yet"):
        newest(files)


def test_a_missing_latest_falls_back_too(tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=2, keep=2)
    files.latest.unlink()
    path, saved, _ = newest(files)
    assert saved["cur_itrs"] == 1
    files.make_latest(path)
    assert steps_kept(files) == {"latest_r.pth": 1}


def test_the_runs_own_files_and_no_others(tmp_path: Path) -> None:
    files = files_after(tmp_path, steps=2, keep=2)
    others = [tmp_path / name for name in ("latest_r2.1.pth", "latest_r.x.pth", "other.tmp")]
    for path in others:
        path.touch()
    picture = files.folder / "results" / "street" / "1_pred.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    own = [killed_write(path) for path in (files.latest, files.earlier[0], files.best, picture)]
    others.append(killed_write(tmp_path / "latest_r2.pth"))
    assert all(map(files.owns, (files.latest, *files.earlier, files.best)))
    assert not any(map(files.owns, others))
    files.delete_leftovers()
    assert not any(path.exists() for path in own)
    assert len(files.earlier) == 1 and picture.exists()
    files.delete_run()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_really_full_disk_costs_one_checkpoint(tmp_path: Path) -> None:
    """The system refuses to write past a limit, as it does on a full disk."""
    files = files_after(tmp_path, steps=2, keep=2)
    before = steps_kept(files)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 300_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match=r"^could not write .*latest_r.pth: File too large$"):
                checkpoint.save_latest({"weights": torch.zeros(1_000_000)}, files)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert steps_kept(files) == before
    checkpoint.save_latest(holding(3), files)
    assert steps_kept(files) == {"latest_r.pth": 3, "latest_r.1.pth": 2}
