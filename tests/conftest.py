"""What the tests of the whole program share: a tiny data set on disk and a quick command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.browser import MISSING, Browser, is_installed

torch.set_num_threads(1)  # small tensors; and the machine may run several tests at once

# A script that starts the tests with & has Ctrl-C ignored, nohup SIGHUP, also in what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def tiny_voc(tmp_path: Path) -> Path:
    """A VOC2012 tree with 6 training and 3 validation images of 80x70, one of them 64x90."""
    base = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    names = [f"img_{number}" for number in range(9)]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        height, width = (90, 64) if number == 8 else (70, 80)
        label = np.zeros((height, width), dtype=np.uint8)
        label[10:50, 10:40] = 1 + number % 3
        label[:4] = 255
        pixels = rng.integers(0, 60, (height, width, 3)) + 60 * label[..., None].clip(max=3)
        Image.fromarray(pixels.astype(np.uint8)).save(base / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(label).save(base / "SegmentationClass" / f"{name}.png")
    splits = base / "ImageSets" / "Segmentation"
    (splits / "train.txt").write_text("\n".join(names[:6]) + "\n")
    (splits / "val.txt").write_text("\n".join(names[6:]) + "\n")
    return tmp_path / "data"


@pytest.fixture
def voc_args(tiny_voc: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a run of a few steps on the tiny VOC; later ones override earlier ones."""

    def build(*more: str) -> list[str]:
        small = "--model deeplabv3plus_mobilenet --crop_size 48 --batch_size 2 --num_workers 0"
        short = "--total_itrs 4 --val_interval 2 --print_interval 1 --device cpu --pretrained none"
        places = ["--data_root", str(tiny_voc), "--output_dir", str(tmp_path / "out")]
        return [*small.split(), *short.split(), *places, *more]

    return build


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without the files that show it, which take as long as a few tiny steps."""
    monkeypatch.setattr("utils.training.report.save_views", lambda folder: None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium, if it is installed."""
    if not is_installed():
        pytest.skip(MISSING)
    browser = Browser()
    yield browser
    browser.close()
