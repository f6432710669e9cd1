"""What the checks of a GPU share; a check is a function of the device.

`python -m benchmarks.gpu --part tests` calls them without pytest, which may be absent where there
is a GPU. tests/benchmarks/test_gpu_checks.py runs them with pytest, on the CPU too: so they are
known to work. A check raises AssertionError, or returns in a few words what it measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

import network
from benchmarks import workers
from utils.loss import Criterion
from utils.runtime.precision import autocast, set_float32_precision
from utils.training.model import TrainingNetwork
from utils.utils import fix_bn

Check = Callable[[torch.device], str]
CPU = torch.device("cpu")
NAN = float("nan")
NUM_CLASSES = 5


def small_model(name: str = "deeplabv3plus_resnet18") -> network.DeepLabV3:
    """With random weights, the same at each call, and without dropout."""
    torch.manual_seed(0)
    model = network.create_model(name, num_classes=NUM_CLASSES, pretrained="none")
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


def batch(number: int = 4, side: int = 96) -> tuple[Tensor, Tensor]:
    """uint8 images (N,3,H,W) and labels (N,H,W), on the CPU."""
    images = np.stack([workers.mosaic(side, side, first=index) for index in range(number)])
    labels = torch.from_numpy(images[..., 0] // 52)  # 0..4
    labels[:, :7] = 255
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def gradients(
    device: torch.device,
    precision: str = "fp32",
    *,
    dtype: torch.dtype = torch.float32,
    change: Callable[[network.DeepLabV3], nn.Module] = TrainingNetwork,
    train_bn: bool = False,
) -> tuple[float, Tensor]:
    """The loss of a training step, and all its gradients as one float64 tensor on the CPU."""
    model = small_model().to(device, dtype).to(memory_format=torch.channels_last).train()
    if not train_bn:  # of random weights and small maps it makes much of any rounding
        fix_bn(model)
    net, (images, labels) = change(model), batch(2, 64)
    criterion = Criterion("cross_entropy").to(device)
    factor = 1024 if precision == "fp16" else 1  # small gradients would be 0
    set_float32_precision(precision)
    try:
        with autocast(device, precision):
            outputs = net(model.normalize(images.to(device)).to(dtype))
        loss = criterion(outputs, labels.to(device))
        (loss * factor).backward()
    finally:
        set_float32_precision("fp32")
    parts = [p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(parts) / factor


def distance(one: Tensor, other: Tensor) -> float:
    """Of two tensors, relative to the second."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float((one - other).norm() / other.norm().clamp(min=1e-9))


def agree(found: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """What was found, after a look whether each is within its limit."""
    text = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    assert all(value <= limits[name] for name, value in found.items()), f"{text}; {limits}"
    return text
