"""The network on a CPU or GPU, as the pipeline uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from network import DeepLabV3
from network.passes import labels_of_passes, logits_of_passes, most_probable
from utils.runtime.memory import is_out_of_memory
from utils.runtime.precision import autocast

SMALLEST_TILE = 128  # smaller ones save no memory that matters


@dataclass
class Launched:
    """Results on their way to the CPU's memory, where they are complete once `done` came."""

    labels: Tensor  # (N,H,W) uint8
    confidence: Tensor | None  # (N,H,W) uint8
    done: torch.cuda.Event | None


def labels_and_confidence(
    passes: Sequence[Tensor], size: tuple[int, int], *, with_confidence: bool
) -> tuple[Tensor, Tensor | None]:
    """Labels (N,H,W) of several passes, and their probability as uint8, 255 is 1, if asked for."""
    if not with_confidence:
        return labels_of_passes(passes, size), None
    labels, shares = most_probable(passes, size)
    return labels, (255 * shares).round().byte()


class TorchDevice:
    """A folded network with its way of predicting.

    A GPU computes one batch while the results of the one before are fetched and written. Images
    reach it through pinned memory, so nothing waits for the copies. Where memory does not suffice,
    images are predicted one by one, then in smaller and smaller tiles, from then on; `say` is told.
    """

    size: tuple[int, int] | None = None  # any

    def __init__(
        self,
        model: DeepLabV3,
        device: torch.device,
        *,
        precision: str = "fp32",
        batch_size: int | None = None,
        tile: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        with_confidence: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.is_gpu = device.type == "cuda"
        self.batch_size = batch_size or (1 if device.type == "cpu" else 4)
        self.in_flight = 1 if self.is_gpu else 0
        self.tile, self.scales, self.flip = tile, scales, flip
        self.with_confidence, self.say = with_confidence, say

    def stage(self, image: np.ndarray) -> Tensor:
        """The image (H,W,3) in memory from which a GPU can copy by itself."""
        tensor = torch.from_numpy(image)
        return tensor.pin_memory() if self.is_gpu else tensor

    def launch(self, images: Sequence[Tensor]) -> list[Launched]:
        """Start to predict images (H,W,3) of one size; fewer at a time if memory is short."""
        launched, left, tile = list[Launched](), list(images), self.tile
        while left:
            batch = left[: self.batch_size]
            try:
                launched.append(self._launch(batch))
                left = left[len(batch) :]
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Only here are the tensors of the failed attempt free.
            self._use_less_memory(batch)
        if self.tile != tile:
            self.say(
                f"out of memory for {images[0].shape[1]}x{images[0].shape[0]} pixels: images are "
                f"predicted in tiles of {self.tile} from now on (--val_tile {self.tile})"
            )
        return launched

    def _use_less_memory(self, batch: Sequence[Tensor]) -> None:
        if self.is_gpu:
            torch.cuda.empty_cache()
        if len(batch) > 1:
            self.batch_size = 1
            return
        longest = int(max(batch[0].shape[:2]) * max(self.scales))
        size = min(self.tile or longest, longest)
        if size // 2 < SMALLEST_TILE:
            raise MemoryError(
                f"out of memory, even in tiles of {size} pixels; use a smaller network or "
                "--precision bf16"
            )
        self.tile = size // 2

    @torch.inference_mode()
    def _launch(self, images: Sequence[Tensor]) -> Launched:
        batch = torch.empty(len(images), *images[0].shape, dtype=torch.uint8, device=self.device)
        for place, image in zip(batch, images, strict=True):
            place.copy_(image, non_blocking=self.is_gpu)
        size = (batch.shape[1], batch.shape[2])
        with autocast(self.device, self.precision):
            inputs = self.model.normalize(batch.permute(0, 3, 1, 2))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            passes = logits_of_passes(
                self.model, inputs, tile=self.tile, scales=self.scales, flip=self.flip
            )
            labels, confidence = labels_and_confidence(
                passes, size, with_confidence=self.with_confidence
            )
        labels, done = labels.to("cpu", non_blocking=self.is_gpu), None  # to pinned memory
        if confidence is not None:
            confidence = confidence.to("cpu", non_blocking=self.is_gpu)
        if self.is_gpu:
            done = torch.cuda.Event()
            done.record()
        return Launched(labels, confidence, done)

    def finish(
        self, launched: Sequence[Launched]
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Wait for the results of `launch`; for each image labels and confidence."""
        for part in launched:
            if part.done is not None:
                part.done.synchronize()
            for index, labels in enumerate(part.labels.numpy()):
                yield labels, None if part.confidence is None else part.confidence[index].numpy()
