"""The small helpers: denormalisation, BatchNorm switches, folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.functional import normalize

import utils
from utils.utils import Denormalize, fix_bn, mkdir, set_bn_momentum

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denormalize_undoes_torchvisions_normalize(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    normalized = normalize(image, MEAN, STD)
    kept = normalized.clone()
    denormalize = Denormalize(MEAN, STD)
    back = denormalize(normalized)
    assert back.dtype == dtype
    torch.testing.assert_close(back, image)
    assert torch.equal(normalized, kept)
    assert torch.equal(utils.denormalize(normalized, MEAN, STD), back)  # the predecessor's function
    array = denormalize(normalized.numpy())
    assert isinstance(array, np.ndarray) and array.dtype == normalized.numpy().dtype
    np.testing.assert_allclose(array, image.numpy(), rtol=1e-5, atol=1e-6)


def test_denormalize_bad_input() -> None:
    with pytest.raises(ValueError, match="3 means and 1 stds"):
        Denormalize(MEAN, STD[:1])
    denormalize = Denormalize(MEAN, STD)
    for image in (torch.rand(4, 5, 5), torch.rand(3, 5), np.zeros((5, 5, 3), dtype=np.float32)):
        with pytest.raises(ValueError, match="it must be"):
            denormalize(image)
    for image in (torch.zeros(3, 2, 2, dtype=torch.uint8), np.zeros((3, 2, 2), dtype=np.uint8)):
        with pytest.raises(ValueError, match="uint8; normalized images are float"):
            denormalize(image)


def make_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.SyncBatchNorm(4), nn.Dropout()),
        nn.BatchNorm1d(4),
    )


def test_set_bn_momentum_reaches_every_batchnorm() -> None:
    model = make_model()
    set_bn_momentum(model, momentum=0.01)
    assert [model[1].momentum, model[2][0].momentum, model[3].momentum] == [0.01] * 3
    set_bn_momentum(model)
    assert model[1].momentum == 0.1


def test_fix_bn_stops_every_batchnorm_and_nothing_else() -> None:
    model = make_model().train()
    fix_bn(model)
    assert [model[1].training, model[2][0].training, model[3].training] == [False] * 3
    assert model.training and model[0].training and model[2][1].training
    before = model[1].running_mean.clone()
    model[1](torch.randn(2, 4, 3, 3) + 5)
    assert torch.equal(model[1].running_mean, before)


def test_mkdir(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "run"
    mkdir(folder)
    (folder / "kept.txt").write_text("x")
    mkdir(str(folder))
    assert (folder / "kept.txt").read_text() == "x"
    with pytest.raises(ValueError, match="kept.txt is a file"):
        mkdir(folder / "kept.txt")
