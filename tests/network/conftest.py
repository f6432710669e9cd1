from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from network import create_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: on a busy machine, threads that wait for each other cost 10x."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def randomize() -> Callable[..., nn.Module]:
    """Turns a module to float64 with random BatchNorm statistics and affines, biases included."""

    def apply(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)

        def uniform(tensor: Tensor, low: float, high: float) -> None:
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(low + (high - low) * values)

        module = module.double()
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    fan_in = layer.weight[0].numel()
                    uniform(layer.weight, -1.7 / fan_in**0.5, 1.9 / fan_in**0.5)
                if isinstance(layer, nn.BatchNorm2d):
                    uniform(layer.weight, 0.5, 1.5)
                    uniform(layer.running_mean, -0.3, 0.3)
                    uniform(layer.running_var, 0.5, 1.5)
                if getattr(layer, "bias", None) is not None:
                    uniform(layer.bias, -0.3, 0.3)
        return module

    return apply


@pytest.fixture
def assert_same() -> Callable[[Tensor, Tensor], None]:
    """Same shape, and no difference above 1e-9 of the largest value."""

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.shape == expected.shape
        assert expected.abs().max() > 0
        assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()

    return check


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Two random images of a size, in float64."""

    def make(height: int, width: int, *, count: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(height * 1000 + width)
        return torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)

    return make


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    torch.manual_seed(1)
    return create_model(
        "deeplabv3plus_mobilenet", num_classes=19, backbone_args={"legacy_padding": True}
    ).eval()


@pytest.fixture
def predecessor_file(mobilenet: nn.Module, tmp_path: Path) -> Path:
    """As the predecessor saves it, its NumPy number included."""
    path = tmp_path / "best_deeplabv3plus_mobilenet_cityscapes_os16.pth"
    content = {
        "cur_itrs": 30000,
        "model_state": mobilenet.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler_state": {"last_epoch": 3},
        "best_score": np.float64(0.721),
    }
    torch.save(content, path)
    return path


@pytest.fixture
def own_checkpoint() -> Callable[..., dict[str, object]]:
    """A checkpoint in our own format, with some entries changed."""

    def make(model: torch.nn.Module, **changes: object) -> dict[str, object]:
        return {
            "format": 1,
            "model_name": model.name,
            "build_args": model.build_args,
            "class_names": ["road", "sky"],
            "palette": torch.arange(768, dtype=torch.uint8).reshape(256, 3),
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "model_state": model.state_dict(),
            "best_score": 0.5,
            **changes,
        }

    return make
