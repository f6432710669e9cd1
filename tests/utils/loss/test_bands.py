"""Sums in bands of rows against plain upsampling, and what they hold at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from utils.loss import bands
from utils.loss.bands import banded_map, banded_sum

SIZES = {  # (h, w) -> (H, W)
    "4 times": ((6, 5), (24, 20)),
    "no whole ratio": ((7, 9), (23, 40)),
    "crop 513": ((9, 9), (33, 33)),
    "same": ((11, 6), (11, 6)),
    "same height": ((11, 3), (11, 8)),
    "same width": ((3, 8), (13, 8)),
    "one row": ((1, 1), (9, 7)),
    "smaller": ((20, 15), (9, 7)),
}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum")


def random_batch(
    name: str, *, dtype: torch.dtype = torch.float64, num_classes: int = 5
) -> tuple[Tensor, Tensor]:
    """Logits (2,C,h,w) and uint8 labels (2,H,W), a tenth of them 255."""
    source, size = SIZES[name]
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, num_classes, *source, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (2, *size), generator=generator).byte()
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return logits.to(dtype).requires_grad_(), labels


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    size = tuple(labels.shape[-2:])
    return cross_entropy(
        F.interpolate(logits, size=size, mode="bilinear", align_corners=False), labels
    )


@pytest.fixture(params=[1, 3000, 2**30], ids=["single rows", "bands", "one band"])
def band_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", request.param)
    return request.param


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equal_to_plain(
    name: str, dtype: torch.dtype, layout: torch.memory_format, band_bytes: int
) -> None:
    logits, labels = random_batch(name, dtype=dtype)
    logits = logits.detach().to(memory_format=layout).requires_grad_()
    value = banded_sum(logits, labels, cross_entropy)
    expected = plain(logits, labels)
    assert value.dtype == dtype
    # torch's kernels round positions once more, hence not 1e-12.
    close = dict(rtol=1e-9, atol=1e-9) if dtype == torch.float64 else dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value, expected, **close)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], **close)


@pytest.mark.parametrize("name", SIZES)
def test_gradcheck(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", 700)
    logits, labels = random_batch(name, num_classes=2)
    assert torch.autograd.gradcheck(
        lambda values: banded_sum(values, labels, cross_entropy), (logits,), fast_mode=True
    )


def test_every_row_is_in_one_band(band_bytes: int) -> None:
    for name, (_, size) in SIZES.items():
        logits, _ = random_batch(name)
        rows = [row for band in bands.row_bands(logits, size) for row in range(size[0])[band.rows]]
        assert rows == list(range(size[0]))


def test_map(band_bytes: int) -> None:
    logits, labels = random_batch("no whole ratio")
    values = banded_map(logits, labels, lambda band, _: band.amax(dim=1))
    size = SIZES["no whole ratio"][1]
    full = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(values, full.amax(dim=1).detach())
    assert not values.requires_grad


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest floating tensor, and every backward kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.backward_kernels = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.backward_kernels += "backward" in str(func)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.numel = max(self.numel, result.numel())
        return result


def test_full_size_scores_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A band is 1/16 of the image, the logits too."""
    logits = torch.randn(2, 8, 16, 16, requires_grad=True)
    labels = torch.randint(0, 8, (2, 64, 64))
    full = 2 * 8 * 64 * 64
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", full * 4 // 16)
    for loss, fewest, most in ((banded_sum, full // 16, full // 8), (None, full, full)):
        with Largest() as largest:
            value = loss(logits, labels, cross_entropy) if loss else plain(logits, labels)
            value.backward()
        assert fewest <= largest.numel <= most
        assert largest.backward_kernels > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradient_none_is_computed(mode: Any) -> None:
    logits, labels = random_batch("4 times")
    expected = banded_sum(logits, labels, cross_entropy)
    with mode(), Largest() as largest:
        value = banded_sum(logits, labels, cross_entropy)
    assert torch.equal(value, expected) and not value.requires_grad
    assert largest.backward_kernels == 0
    with Largest() as largest:
        banded_sum(logits.detach(), labels, cross_entropy)
    assert largest.backward_kernels == 0


@pytest.mark.parametrize(("gib", "expected"), [(4, 11), (8, 11), (24, 4), (80, 2), (192, 1)])
def test_larger_gpus_get_larger_bands(
    gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of 8x19x769x769 are 343 MiB; a band is 32 MiB, or a 256th of the memory."""
    facts = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    with FakeTensorMode():
        scores = torch.empty(8, 19, 193, 193, device="cuda")
    found = list(bands.row_bands(scores, (769, 769)))
    assert len(found) == expected
    assert [row for band in found for row in range(769)[band.rows]] == list(range(769))
