"""The device of the pipeline where memory does not suffice, and with several passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.utils.prediction.conftest import tiny_model
from utils.prediction import TorchDevice

RNG = np.random.default_rng(0)


class Small(torch.nn.Module):
    """A network that takes no more than some pixels at a time."""

    def __init__(self, max_pixels: int) -> None:
        super().__init__()
        self.inner, self.max_pixels = tiny_model(), max_pixels
        self.normalize = self.inner.normalize
        self.seen: list[tuple[int, ...]] = []

    def low_res_logits(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] > self.max_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.seen.append(tuple(x.shape))
        return self.inner.low_res_logits(x)


def device(model: torch.nn.Module, said: list[str], **settings) -> TorchDevice:
    return TorchDevice(model, torch.device("cpu"), say=said.append, **settings)


def predict(device: TorchDevice, *images: np.ndarray) -> list[np.ndarray]:
    staged = [device.stage(image) for image in images]
    return [labels for labels, _ in device.finish(device.launch(staged))]


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tiles_come_by_themselves_and_are_said_once() -> None:
    said: list[str] = []
    model = Small(300 * 300)
    small = device(model, said)
    first, second = picture(512, 1024), picture(512, 1024)
    labels = predict(small, first) + predict(small, second)
    assert small.tile == 256 and all(max(shape[2:]) <= 256 for shape in model.seen)
    assert said == [
        "out of memory for 1024x512 pixels: images are predicted in tiles of 256 from now on "
        "(--val_tile 256)"
    ]
    whole = predict(device(Small(10**9), said), first) + predict(device(Small(10**9), said), second)
    same = [np.mean(a == b) for a, b in zip(labels, whole, strict=True)]
    assert min(same) > 0.98 and len(said) == 1


def test_a_batch_that_does_not_fit_becomes_single_images() -> None:
    said: list[str] = []
    model = Small(64 * 64)
    small = device(model, said, batch_size=4)
    images = [picture(64, 64) for _ in range(4)]
    labels = predict(small, *images)
    assert small.batch_size == 1 and said == [] and small.tile is None
    plain = [predict(device(Small(10**9), said), image)[0] for image in images]
    assert all(np.array_equal(a, b) for a, b in zip(labels, plain, strict=True))


@pytest.mark.parametrize("tile", [None, 256])
def test_there_is_a_smallest_tile(tile: int | None) -> None:
    with pytest.raises(MemoryError, match="out of memory, even in tiles of"):
        predict(device(Small(100), [], tile=tile), picture(300, 300))


def test_another_error_is_none_of_memory() -> None:
    model = Small(10**9)
    model.low_res_logits = lambda x: torch.zeros(2, 3) @ torch.zeros(4, 5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predict(device(model, []), picture(64, 64))
