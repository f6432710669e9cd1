"""What happens when a run goes on and something is not as it was, or can't be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

import main
import network
from tests.helpers import NAME, Args, history, read
from utils.visualizer import History, figures


def rename_classes(out: Path) -> str:
    """Write the latest checkpoint anew, with its first two classes called the other's names."""
    path = out / f"latest_{NAME}.pth"
    saved = network.pretrained.read_file(path)
    first, second, *others = saved["class_names"]
    torch.save(saved | {"class_names": [second, first, *others]}, path)
    return str(path)


def test_a_checkpoint_of_other_classes_is_not_gone_on_with(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "2")) == 0
    ckpt = rename_classes(tmp_path / "out")
    for how in (["--continue_training"], ["--ckpt", ckpt, "--test_only"]):
        assert main.main(voc_args(*how)) == 2
        error = capsys.readouterr().err
        assert "classes are aeroplane, background" in error and error.count("\n") == 1
    elsewhere = ["--ckpt", ckpt, "--output_dir", str(tmp_path / "two"), "--total_itrs", "1"]
    assert main.main(voc_args(*elsewhere)) == 0
    assert "classes are aeroplane, background" in capsys.readouterr().out


def test_more_training_images_than_before_are_said(voc_args: Args, tiny_voc: Path, capsys) -> None:
    assert main.main(voc_args("--total_itrs", "2")) == 0
    names = tiny_voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    names.write_text(names.read_text().replace("img_5\n", ""))
    assert main.main(voc_args("--total_itrs", "3", "--continue_training")) == 0
    assert "the training set had 6 images, now it has 5" in capsys.readouterr().out


def test_weights_that_are_no_numbers_replace_no_checkpoint(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    arguments = voc_args("--lr", "1e38", "--backbone_lr_mult", "1", "--save_interval", "1")
    assert main.main([*arguments, "--val_interval", "9", "--max_bad_steps", "9"]) == 1
    output, error = capsys.readouterr()
    assert "not saved: the weights are NaN or infinite" in output
    assert "not saved; the earlier checkpoints stay" in error and error.count("\n") == 1
    for path in (tmp_path / "out").glob("*.pth"):
        state = network.pretrained.read_file(path)["model_state"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_what_a_full_disk_takes_of_the_pictures_costs_no_run(
    voc_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(figures, "save_curves", full)
    monkeypatch.setattr(History, "image", full)
    assert main.main(voc_args()) == 0
    error = capsys.readouterr().err
    assert "could not write: " in error and "No space left" in error
    assert read(tmp_path / "out")["cur_itrs"] == 4
    assert [line["step"] for line in history(tmp_path / "out") if "loss" in line] == [1, 2, 3, 4]


def test_a_line_that_does_not_fit_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = History(tmp_path / "history.jsonl", resume_step=None)
    lines.scalars(1, {"loss": 1.0})
    whole = (tmp_path / "history.jsonl").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="a line of .*history.jsonl"):
            lines.scalars(2, {"loss": 2.0})
    assert (tmp_path / "history.jsonl").read_text() == whole
    lines.scalars(3, {"loss": 3.0})
    lines.close()
    assert (tmp_path / "history.jsonl").read_text().startswith(whole + '{"step": 3')


def test_going_on_after_an_early_stop_needs_a_larger_one(voc_args: Args, capsys) -> None:
    arguments = voc_args("--early_stop", "1", "--lr", "0", "--val_interval", "1")
    assert main.main([*arguments, "--total_itrs", "9"]) == 0
    assert "to continue with a larger --early_stop" in capsys.readouterr().out
    assert main.main([*arguments, "--total_itrs", "9", "--continue_training"]) == 0
    output = capsys.readouterr().out
    assert "to continue with a larger --early_stop" in output and "step 3/9" not in output
