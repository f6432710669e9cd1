"""Images that do not fit, in windows."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network import create_model, inference
from network.inference import low_res_logits, predict_labels


class Local(nn.Module):
    """Scores at stride 4 that depend on their own 4x4 pixels only, as any window sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(3, 5, 1).double()
        self.seen: list[tuple[int, int]] = []

    def low_res_logits(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[-2:]))
        return self.classify(F.avg_pool2d(x, 4, ceil_mode=True))


class Means(nn.Module):
    """Scores at stride 8 that are the mean of all the network sees."""

    def low_res_logits(self, x: Tensor) -> Tensor:
        size = [side // 8 for side in x.shape[-2:]]
        return x.mean((2, 3), keepdim=True).expand(-1, -1, *size)


class Unpadded(nn.Module):
    """Scores at stride 4, of which the border is missing."""

    def low_res_logits(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 4)[..., 1:, 1:]


@pytest.mark.parametrize(
    "size", [(101, 96), (97, 131), (160, 64), (70, 400), (301, 257), (33, 110)]
)
@pytest.mark.parametrize("tile", [64, 96, 100, 224])
def test_windows_fit_together(size: tuple[int, int], tile: int) -> None:
    torch.manual_seed(0)
    model, images = Local(), torch.randn(2, 3, *size, dtype=torch.float64)
    whole = low_res_logits(model, images)
    model.seen.clear()
    tiled = low_res_logits(model, images, tile=tile)
    assert max(max(seen) for seen in model.seen) <= {64: 64, 96: 96, 100: 96, 224: 224}[tile]
    assert min(min(seen) for seen in model.seen) >= 33
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() < 1e-12
    labels = predict_labels(model, images, tile=tile)
    assert (labels == predict_labels(model, images)).double().mean() > 0.9999


def test_an_image_that_fits_is_not_cut() -> None:
    model, images = Local(), torch.randn(1, 3, 70, 50, dtype=torch.float64)
    low_res_logits(model, images, tile=70)
    assert model.seen == [(70, 50)]


def test_windows_are_blended() -> None:
    images = torch.zeros(1, 3, 64, 512)
    images[..., 256:] = 1
    row = low_res_logits(Means(), images, tile=128)[0, 0, 0]
    assert row.shape == (64,) and row[0] == 0 and row[-1] == 1
    # Three windows see 0, 1/2 and 1. They overlap by 32 pixels, 4 scores: plain means would have
    # steps of 1/4.
    assert row.diff().max() < 0.15 and row.diff().min() >= 0


def test_a_missing_border_moves_nothing() -> None:
    ramp = torch.linspace(0, 1, 400)
    images = ramp.expand(1, 3, 400, 400)
    tiled = low_res_logits(Unpadded(), images, tile=128)
    assert tiled.shape == (1, 3, 100, 100)
    plain = F.avg_pool2d(images, 4)
    assert (tiled - plain).abs().max() < 6 / 400  # a score's width is 4/400, one is missing


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet", "deeplabv3plus_xception"])
def test_networks_in_windows(name: str) -> None:
    model = create_model(name, num_classes=3, pretrained="none").eval()
    images = torch.randn(1, 3, 100, 150)
    logits = low_res_logits(model, images, tile=96)
    assert logits.shape[-2:] == ((7, 10) if "mobilenet" in name else (25, 38))
    assert logits.isfinite().all()


def test_windows_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="tile is 63; windows must be at least 64 pixels wide"):
        low_res_logits(Local(), torch.zeros(1, 3, 100, 100), tile=63)


class Searching(Local):
    """Notes whether cuDNN would search for quick convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.searches: list[bool] = []

    def low_res_logits(self, x: Tensor) -> Tensor:
        self.searches.append(torch.backends.cudnn.benchmark)
        return super().low_res_logits(x.double())


@pytest.mark.parametrize("tile", [None, 640])
@pytest.mark.parametrize("outside", [True, False])
def test_convolutions_are_searched_for_sizes_that_come_often(
    tile: int | None, outside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "_passes", Counter())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", outside)  # put back at the end
    equal, different = Searching(), Searching()
    for number in range(6):
        low_res_logits(equal, torch.zeros(1, 3, 100, 612), tile=tile)
        low_res_logits(different, torch.zeros(1, 3, 100, 613 + number), tile=tile)
    assert equal.searches[-1] and not any(different.searches)
    assert torch.backends.cudnn.benchmark is outside


def test_convolutions_are_searched_for_windows() -> None:
    model = Searching()
    low_res_logits(model, torch.zeros(1, 3, 160, 1120), tile=160)
    assert not model.searches[0] and model.searches[-1]
