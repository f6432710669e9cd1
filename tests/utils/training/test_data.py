"""The data sets of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets import DATASETS, SampleKey
from utils.options import parse_main
from utils.runtime.distributed import World
from utils.training.data import build_datasets


def training_sample(*given: str) -> tuple[Tensor, Tensor]:
    opts = parse_main(["--dataset", "shapes", "--crop_size", "64", *given])
    return build_datasets(opts, world=World(0, 1, torch.device("cpu")))["train"][SampleKey(0, 0, 0)]


def test_color_jitter_changes_images_alone_and_is_off_unless_the_data_set_says_so() -> None:
    image, label = training_sample()
    off_image, _ = training_sample("--color_jitter", "0")
    strong_image, strong_label = training_sample("--color_jitter", "0.9")
    assert torch.equal(image, off_image) and torch.equal(label, strong_label)
    assert not torch.equal(image, strong_image)
    strengths = {name: dataset.color_jitter for name, dataset in DATASETS.items()}
    assert strengths == {"voc": 0, "cityscapes": 0.5, "folder": 0, "shapes": 0}
