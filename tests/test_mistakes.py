"""What the command answers to mistakes: one line, before anything is written or lost."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
import network
from tests.helpers import NAME, Args

pytestmark = pytest.mark.usefixtures("no_figures")


def damage_label(data: Path) -> str:
    path = data / "VOCdevkit/VOC2012/SegmentationClass/img_0.png"
    label = np.array(Image.open(path))
    label[0, :2] = (33, 77)
    Image.fromarray(label).save(path)
    return "img_0.png: values 33, 77 are not classes; allowed: 0..20 and 255 (ignored)"


def resize_label(data: Path) -> str:
    path = data / "VOCdevkit/VOC2012/SegmentationClass/img_1.png"
    Image.open(path).resize((9, 9), Image.Resampling.NEAREST).save(path)
    return "sizes differ"


def drop_label(data: Path) -> str:
    (data / "VOCdevkit/VOC2012/SegmentationClass/img_2.png").unlink()
    return "img_2.png"


def empty_split(data: Path) -> str:
    (data / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("")
    return "train.txt is empty"


@pytest.mark.parametrize(
    ("damage", "workers"),
    [
        (damage_label, "1"),
        (resize_label, "0"),
        (drop_label, "0"),
        (empty_split, "0"),
        *(
            pytest.param(damage, workers, marks=pytest.mark.slow)
            for damage, workers in (
                (damage_label, "0"),
                (resize_label, "1"),
                (drop_label, "1"),
                (empty_split, "1"),
            )
        ),
    ],
)
def test_bad_data_is_one_line(
    damage: Callable[[Path], str], workers: str, voc_args: Args, tiny_voc: Path, capsys
) -> None:
    expected = damage(tiny_voc)
    assert main.main(voc_args("--num_workers", workers, "--total_itrs", "9")) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and error.startswith("main.py: error: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ckpt", "nowhere.pth"], "no file nowhere.pth"),
        (["--model", "deeplabv3_resnet51"], "did you mean 'deeplabv3_resnet50'?"),
        (["--data_root", "nowhere"], "--data_root nowhere does not exist; pass --download"),
        (["--dataset", "cityscapes"], "leftImg8bit"),
        (["--batch_size", "1"], "use --batch_size 2 or more"),
        (["--gpu_id", "0,1"], "torchrun --nproc_per_node 2 main.py"),
        (["--gpu_id", "first"], "must be a number"),
        (["--device", "gpu"], "must be auto, cpu, cuda, cuda:N or mps"),
        (["--num_classes", "20"], "voc has 21 classes"),
        (["--test_only"], "--test_only needs --ckpt"),
        (["--continue_training"], f"latest_{NAME}.pth"),
        (["--warmup_itrs", "99"], "--warmup_itrs 99 is more than --total_itrs"),
        (["--class_weights", "nowhere.txt"], "nowhere.txt"),
        (["--pretrained", "nowhere.pth"], "nowhere.pth"),
        (["--finetune"], "--finetune needs --ckpt FILE"),
        (["--finetune", "--ckpt", "x.pth", "--test_only"], "--test_only needs it"),
        (
            ["--finetune", "--ckpt", "x.pth", "--continue_training"],
            "--continue_training needs it; leave out one",
        ),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    arguments: list[str], expected: str, voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args(*arguments)) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_no_data_at_all_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main([]) == 2
    error = capsys.readouterr().err
    for way in ("--download", "--dataset shapes", "leftImg8bit/ and gtFine/"):
        assert way in error
    assert error.count("\n") == 1
    assert main.main(["--dataset", "cityscapes"]) == 2
    assert "leftImg8bit/" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_or_class_count_is_refused(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    ckpt = str(tmp_path / "out" / f"latest_{NAME}.pth")
    elsewhere = ["--output_dir", str(tmp_path / "new")]
    other = ["--ckpt", ckpt, "--model", "deeplabv3plus_resnet18", *elsewhere]
    assert main.main(voc_args(*other)) == 2
    assert "holds deeplabv3plus_mobilenet, not --model" in capsys.readouterr().err
    assert main.main(voc_args("--ckpt", ckpt, "--num_classes", "30", *elsewhere)) == 2
    error = capsys.readouterr().err
    assert "has 21 classes" in error and "--finetune loads everything but the final" in error
    assert not (tmp_path / "new").exists()
    more = ["--num_classes", "30", "--finetune", "--total_itrs", "1", "--lr", "0"]
    assert main.main(voc_args("--ckpt", ckpt, *more, *elsewhere)) == 0
    assert f"all weights but the final classifier's from {ckpt}" in capsys.readouterr().out
    old, new = (
        network.pretrained.read_file(tmp_path / folder / f"latest_{NAME}.pth")["model_state"]
        for folder in ("out", "new")
    )
    assert len(new["classifier.classifier.3.bias"]) == 30
    key = "classifier.classifier.0.weight"
    assert torch.equal(old[key], new[key])


def test_an_earlier_run_is_replaced_only_when_asked(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args("--total_itrs", "2")) == 0
    latest = tmp_path / "out" / f"latest_{NAME}.pth"
    before = latest.read_bytes()
    assert main.main(voc_args("--total_itrs", "1")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert latest.read_bytes() == before
    assert main.main(voc_args("--total_itrs", "1", "--overwrite")) == 0
    assert network.pretrained.read_file(latest)["cur_itrs"] == 1


def test_overwriting_never_takes_the_checkpoint_started_from(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    best = tmp_path / "out" / f"best_{NAME}.pth"
    assert main.main(voc_args("--ckpt", str(best), "--overwrite")) == 2
    assert "would delete" in capsys.readouterr().err and best.exists()


def test_continuing_from_elsewhere_does_not_replace_a_run(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    elsewhere = ["--output_dir", str(tmp_path / "two")]
    assert main.main(voc_args("--total_itrs", "1", *elsewhere)) == 0
    ckpt = ["--ckpt", str(tmp_path / "out" / f"latest_{NAME}.pth"), "--continue_training"]
    assert main.main(voc_args(*ckpt, *elsewhere)) == 2
    assert "already exists" in capsys.readouterr().err


def test_nothing_saved_yet_is_said(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    for path in (tmp_path / "out").glob("*.pth"):
        path.unlink()
    assert main.main(voc_args()) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and "--continue_training" not in error
    assert main.main(voc_args("--continue_training")) == 2
    assert "nothing was saved yet" in capsys.readouterr().err


def test_a_full_disk_is_one_line(voc_args: Args, tmp_path: Path, capsys) -> None:
    """The system refuses to write a checkpoint past a limit, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    try:
        assert main.main(voc_args("--total_itrs", "1")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error, out = capsys.readouterr().err, tmp_path / "out"
    reason = os.strerror(errno.EFBIG)
    assert error == f"main.py: error: could not write {out / f'best_{NAME}.pth'}: {reason}\n"
    assert not list(out.glob("*.pth*"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (None, "holds no tensors; it is not a checkpoint or weight file"),
        ({"std": [0.0, 1.0, 1.0]}, "is no valid checkpoint: std is [0.0, 1.0, 1.0]; its values"),
        (
            {"class_names": ["road"]},
            "is no valid checkpoint: class_names has 1 entries; it must",
        ),
        ({"best_score": "good"}, "is no valid checkpoint: best_score is 'good'; it must be a num"),
        (
            {"optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(3)}}}},
            "has no param",
        ),
    ],
)
def test_a_checkpoint_with_impossible_values_is_one_line(
    changes: dict | None, problem: str, voc_args: Args, tmp_path: Path, capsys
) -> None:
    """Whatever it is read for, and before anything is written."""
    path, out = tmp_path / "x.pth", tmp_path / "out"
    model = network.create_model("deeplabv3plus_mobilenet")
    content = {"format": 1, "model_name": model.name, "build_args": model.build_args}
    content |= {"model_state": model.state_dict(), "cur_itrs": 1, "scheduler_state": {}}
    torch.save({} if changes is None else content | changes, path)
    for way in ("--test_only", "--continue_training", "--finetune"):
        assert main.main(voc_args("--ckpt", str(path), way)) == 2
        error = capsys.readouterr().err
        assert problem in error and error.count("\n") == 1
    if changes is None:
        assert main.main(voc_args("--pretrained", str(path))) == 2
        assert problem in capsys.readouterr().err
    assert not out.exists()


def test_an_optimizer_state_of_other_shapes_is_one_line(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    path = tmp_path / "out" / f"latest_{NAME}.pth"
    saved = torch.load(path)
    for moments in saved["optimizer_state"]["state"].values():
        moments["momentum_buffer"] = torch.ones(3)
    torch.save(saved, path)
    assert main.main(voc_args("--continue_training", "--ckpt", str(path))) == 2
    error = capsys.readouterr().err
    assert "its optimizer state does not fit SGD here" in error and error.count("\n") == 1
