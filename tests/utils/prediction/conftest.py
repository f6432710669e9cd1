"""predict.py with a network that takes milliseconds: three numbers a pixel, 19 classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import network
import predict
from datasets import Cityscapes
from network.utils import SimpleSegmentationModel

Predict = Callable[..., int]


def tiny_model(num_classes: int = 19) -> SimpleSegmentationModel:
    """Logits at stride 4, with the attributes of a model from a checkpoint."""
    torch.manual_seed(0)
    model = SimpleSegmentationModel(nn.Identity(), nn.Conv2d(3, num_classes, 4, stride=4)).eval()
    model.name, model.normalize = "tiny", network.Normalize((0.5,) * 3, (0.2,) * 3)
    model.class_names = Cityscapes.facts.class_names[:num_classes]
    model.palette = Cityscapes.facts.palette
    return model


@pytest.fixture
def model() -> SimpleSegmentationModel:
    return tiny_model()


@pytest.fixture
def call(model: SimpleSegmentationModel, tmp_path: Path, monkeypatch) -> Predict:
    """Runs predict.py; masks go to the folder `masks` unless `--output` is given."""
    monkeypatch.setattr(predict.prediction, "load_model", lambda ckpt, old: (model, False))

    def run(*arguments: object) -> int:
        words = ["--ckpt", "none", "--device", "cpu", "--output", str(tmp_path / "masks")]
        return predict.main([*words, *map(str, arguments)])

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 4 images: town/a.png, town/b.png and c.png of one size, and a wide d.jpg."""
    folder = tmp_path / "in"
    (folder / "town").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, width in (("town/a.png", 64), ("town/b.png", 64), ("c.png", 64), ("d.jpg", 240)):
        pixels = rng.integers(0, 256, (12, width // 4, 3)).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return folder


def files_in(folder: Path) -> list[str]:
    """The files below a folder, by their relative paths."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)
