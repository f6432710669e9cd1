"""From one image to labels or probabilities, with what a model knows about its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .inference import predict_labels
from .utils import Normalize, SimpleSegmentationModel


class ImageModel(SimpleSegmentationModel):
    """A model that takes an image, too: a PIL image of any mode, or RGB as uint8 (H,W,3).

    It is evaluated, whatever mode it is in, on the device where its parameters are.
    """

    mean: tuple[float, ...]  # RGB, of values in 0..1
    std: tuple[float, ...]
    normalize: Normalize  # by `mean` and `std`: images -> the input of `forward`

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """State what the input is normalized with: weights fit only what they were trained with."""
        self.mean, self.std = tuple(mean), tuple(std)
        self.normalize = Normalize(self.mean, self.std)

    def predict(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The most probable class of each pixel: uint8 (H,W), or int16 from 257 classes on."""
        with self._evaluation():
            return predict_labels(self, self._batch(image))[0].cpu().numpy()

    def probabilities(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The probability of each class at each pixel: float32 (C,H,W)."""
        with self._evaluation():
            return self(self._batch(image))[0].float().softmax(0).cpu().numpy()

    def _batch(self, image: Image.Image | np.ndarray) -> Tensor:
        """The image, normalized: (1,3,H,W)."""
        pixels = np.array(image.convert("RGB") if isinstance(image, Image.Image) else image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"the image is {pixels.dtype} {pixels.shape}; give a PIL image, or uint8 (H,W,3)"
            )
        like = next(self.parameters())
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(like.device)
        return self.normalize.to(like.device)(batch).to(like.dtype)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """No autograd, and evaluation mode; later each layer is in the mode it was in."""
        modes = {layer: layer.training for layer in self.modules()}
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for layer, mode in modes.items():
                layer.training = mode
