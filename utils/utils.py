"""Small helpers under the names that users of the predecessor import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # the base of every BatchNorm, synced ones too

IGNORE_INDEX = 255  # the label of pixels that count neither in the loss nor in the scores


class Denormalize:
    """Undo (image - mean) / std, channel by channel.

    Takes float arrays or tensors (3, H, W) or (N, 3, H, W) and gives the same type, shape, dtype
    and device; nothing is clipped.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std):
            raise ValueError(f"{len(mean)} means and {len(std)} stds; give one each per channel")
        self.mean = np.asarray(mean, dtype=np.float64).reshape(-1, 1, 1)
        self.std = np.asarray(std, dtype=np.float64).reshape(-1, 1, 1)

    def __call__(self, image: np.ndarray | Tensor) -> np.ndarray | Tensor:
        if image.ndim < 3 or image.shape[-3] != len(self.mean):
            raise ValueError(
                f"an image of shape {tuple(image.shape)}; it must be (..., {len(self.mean)}, H, W)"
            )
        if isinstance(image, Tensor):
            if not image.is_floating_point():
                raise ValueError(f"an image of type {image.dtype}; normalized images are float")
            return image * torch.from_numpy(self.std).to(image) + torch.from_numpy(self.mean).to(
                image
            )
        if image.dtype.kind != "f":
            raise ValueError(f"an image of type {image.dtype}; normalized images are float")
        return image * self.std.astype(image.dtype) + self.mean.astype(image.dtype)


def denormalize(
    tensor: np.ndarray | Tensor, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray | Tensor:
    """Undo (image - mean) / std, see `Denormalize`."""
    return Denormalize(mean, std)(tensor)


def set_bn_momentum(model: nn.Module, momentum: float = 0.1) -> None:
    """Set the momentum of every BatchNorm in the model."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum


def fix_bn(model: nn.Module) -> None:
    """Put every BatchNorm in eval mode; a later model.train() undoes it."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def mkdir(path: str | Path) -> None:
    """Make a folder with its parents; one that is there stays as it is."""
    if Path(path).exists() and not Path(path).is_dir():
        raise ValueError(f"{path} is a file; give a folder, or a name that is free")
    Path(path).mkdir(parents=True, exist_ok=True)
