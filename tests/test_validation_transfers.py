"""Validation samples go to the device as they are: a stack of pinned memory is not pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import main
from utils import options
from utils.training.prepare import prepare
from utils.visualizer import Trackers


class Pinned(torch.Tensor):
    """Stands for a sample in pinned memory: `to` is its way to the device."""

    stacked = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.stack:
            cls.stacked += 1
        if func is torch.Tensor.to:
            assert (kwargs or {}).get("non_blocking")
            return result.as_subclass(torch.Tensor)
        return result


def test_pinned_samples_are_not_stacked_before_they_travel(tmp_path: Path) -> None:
    command = "--dataset shapes --model deeplabv3plus_mobilenet --pretrained none --device cpu"
    places = f"--crop_size 48 --batch_size 2 --num_workers 0 --output_dir {tmp_path}"
    run = prepare(options.parse_main(f"{command} {places}".split()), "")
    samples = []
    for index in (0, 1):
        image, label = torch.full((3, 48, 48), index, dtype=torch.uint8), torch.zeros(48, 48)
        samples.append((index, image.as_subclass(Pinned), label.byte().as_subclass(Pinned)))
    vars(run.data)["val_loader"] = [samples]
    main.validate(run, 1, Trackers())
    assert Pinned.stacked == 0
