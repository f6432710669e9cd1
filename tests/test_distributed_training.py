"""Training in two processes: equal to one process, whole in validation, and ended by a death."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import main
from datasets.voc import CLASS_NAMES
from tests.helpers import NAME, Args, history, read, step_losses, torchrun

pytestmark = pytest.mark.usefixtures("no_figures")

NO_DROPOUT = "torch.nn.Dropout.forward = lambda self, x: x"
# BatchNorm as it is, and nothing drawn: then only the arithmetic of the batch's parts is left, and
# the learning rate does not amplify its rounding a hundredfold in 20 steps, as 0.01 does.
STEPS = "--total_itrs 8 --val_interval 8 --freeze_bn --lr 0.005".split()
MANY_STEPS = [*STEPS, *"--total_itrs 20 --val_interval 20".split()]


@pytest.fixture
def uneven_voc(tiny_voc: Path) -> Path:
    """The tiny VOC with two training labels that are nearly all ignored."""
    for number in (0, 3):
        path = tiny_voc / f"VOCdevkit/VOC2012/SegmentationClass/img_{number}.png"
        label = np.array(Image.open(path))
        label[:, 12:] = 255
        Image.fromarray(label).save(path)
    return tiny_voc


@pytest.fixture
def no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)


@pytest.fixture
def launcher(tmp_path: Path) -> Callable[[str], Path]:
    """main.py after a line of code, for torchrun."""

    def write(code: str) -> Path:
        path = tmp_path / "launcher.py"
        path.write_text(f"import os, sys, torch\n{code}\nimport main\nsys.exit(main.main())\n")
        return path

    return write


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The scores and losses of the validations of this process."""
    seen, report = [], main.report.report_validation

    def keep(run: Any, step: int, trackers: Any, metrics: Any, loss: float, *others: Any) -> None:
        seen.append({"validation loss": loss, **metrics.get_results()})
        report(run, step, trackers, metrics, loss, *others)

    monkeypatch.setattr(main.report, "report_validation", keep)
    return seen


def weights_option(folder: Path) -> list[str]:
    """The option that gives the classes of VOC unequal weights."""
    path = folder / "weights.txt"
    lines = (f"{0.5 + number % 4} {name}\n" for number, name in enumerate(CLASS_NAMES))
    path.write_text("".join(lines))
    return ["--class_weights", str(path)]


def train_one(arguments: Sequence[str], folder: Path) -> list[float]:
    """The losses of a run in this process."""
    assert main.main([*arguments, "--output_dir", str(folder)]) == 0
    return step_losses(folder)


def train_two(arguments: Sequence[str], folder: Path, script: Path) -> list[float]:
    """The losses of a run in two processes."""
    done = torchrun([*arguments, "--output_dir", str(folder)], script=script)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout and "(2 images x 2 process(es)" in done.stdout
    assert done.stdout.count("validation at step") == 1
    assert not [key for key in read(folder)["model_state"] if key.startswith("module.")]
    return step_losses(folder)


def test_accumulation_equals_the_larger_batch(
    voc_args: Args, uneven_voc: Path, no_dropout: None, tmp_path: Path
) -> None:
    arguments = voc_args(*STEPS, *weights_option(tmp_path))
    large = train_one([*arguments, "--batch_size", "4"], tmp_path / "large")
    parts = ["--batch_size", "2", "--grad_accumulation", "2"]
    assert len(large) == 8 and large[-1] != pytest.approx(large[0], rel=0.01)
    assert train_one([*arguments, *parts], tmp_path / "parts") == pytest.approx(large, rel=1e-5)


def test_two_processes_equal_one(
    voc_args: Args,
    uneven_voc: Path,
    no_dropout: None,
    launcher: Callable[[str], Path],
    validated: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    arguments = voc_args(*STEPS, "--batch_size", "4")
    one = train_one(arguments, tmp_path / "one")
    two = train_two(arguments, tmp_path / "two", launcher(NO_DROPOUT))
    assert two == pytest.approx(one, rel=1e-5)
    scores = next(line for line in history(tmp_path / "two") if "Mean IoU" in line)
    assert scores["validation loss"] == pytest.approx(validated[0]["validation loss"], rel=1e-4)
    # Its 3 validation images, shared by two, against one process's with the same weights: exact.
    ckpt = str(tmp_path / "two" / f"latest_{NAME}.pth")
    assert main.main([*arguments, "--ckpt", ckpt, "--test_only"]) == 0
    alone = validated[-1]
    for name in ("Mean IoU", "Overall Acc", "Mean Dice"):
        assert scores[name] == alone[name]
    assert scores["validation loss"] == pytest.approx(alone["validation loss"], rel=1e-12)
    rows = next(line["rows"] for line in history(tmp_path / "two") if "table" in line)
    assert {row["class"]: row["pixels"] for row in rows} == alone["Class Pixels"]
    assert sum(row["pixels"] for row in rows) == 2 * 80 * 66 + 64 * 86  # every image once


@pytest.mark.slow  # trains three times on real images
def test_two_processes_equal_one_on_real_images(
    no_dropout: None, launcher: Callable[[str], Path], tmp_path: Path
) -> None:
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    root = Path(os.environ.get("DEEPLAB_TEST_DATA", default)) / "cityscapes_camvid"
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set DEEPLAB_TEST_DATA")
    arguments = f"--dataset cityscapes --data_root {root} --model deeplabv3plus_mobilenet"
    arguments += " --crop_size 129 --batch_size 4 --device cpu --pretrained none --num_workers 0"
    arguments = [*arguments.split(), "--print_interval", "1", *MANY_STEPS]
    folders = [tmp_path / name for name in ("one", "two", "parts")]
    name = NAME.replace("voc", "cityscapes")
    assert main.main([*arguments, "--output_dir", str(folders[0])]) == 0
    done = torchrun(
        [*arguments, "--output_dir", str(folders[1])], script=launcher(NO_DROPOUT), timeout=900
    )
    assert done.returncode == 0, done.stderr
    parts = ["--batch_size", "2", "--grad_accumulation", "2", "--output_dir", str(folders[2])]
    assert main.main([*arguments, *parts]) == 0
    one, two, parts = (step_losses(folder, name) for folder in folders)
    assert len(one) == 20
    assert two == pytest.approx(one, rel=1e-5) and parts == pytest.approx(one, rel=1e-5)
    scores = [
        next(line for line in history(folder, name) if "Mean IoU" in line) for folder in folders
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3, nan_ok=True)


@pytest.mark.slow  # starts two processes under torchrun
def test_one_validation_image_is_enough_for_two_processes(
    voc_args: Args, tiny_voc: Path, tmp_path: Path
) -> None:
    (tiny_voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("img_8\n")
    arguments = voc_args("--batch_size", "4", "--total_itrs", "1")
    done = torchrun([*arguments, "--output_dir", str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 1 images in") == 1
    rows = next(line["rows"] for line in history(tmp_path / "out") if "table" in line)
    assert sum(row["pixels"] for row in rows) == 64 * 86


DIES = """
import utils.visualizer as p
class Dying(p.Progress):
    def count(self, num_images):
        super().count(num_images)
        if self.step == 3 and os.environ['RANK'] == '1': os.kill(os.getpid(), 9)
p.Progress = Dying"""


RAISES = DIES.replace("os.kill(os.getpid(), 9)", "raise RuntimeError('a fault of its own')")


@pytest.mark.slow  # starts two processes under torchrun
def test_a_process_that_fails_tells_why_and_ends_both(
    voc_args: Args, launcher: Callable[[str], Path]
) -> None:
    arguments = voc_args("--batch_size", "4", "--total_itrs", "1000", "--save_interval", "2")
    done = torchrun(arguments, script=launcher(RAISES), timeout=200)
    assert done.returncode != 0
    own = done.stderr.split("torch/distributed/elastic")[0]
    assert own.count("\nRuntimeError: a fault of its own") == 1, own


@pytest.mark.slow  # waits until a dead process is noticed
def test_a_dead_process_ends_the_other_with_one_line(
    voc_args: Args, launcher: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = voc_args("--batch_size", "4", "--total_itrs", "1000", "--save_interval", "2")
    begin = time.monotonic()
    done = torchrun(arguments, script=launcher(DIES), timeout=200)
    assert time.monotonic() - begin < 60 + 30  # and what the start takes
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("main.py: error: ")]
    assert lines == ["main.py: error: another process of this run ended; its own message says why"]
    own = done.stderr.split("torch/distributed/elastic")[0]
    assert "Traceback" not in own, own
    assert read(tmp_path / "out")["cur_itrs"] == 2
