"""Every loss of training and a mix: by property, against torch, and in parts against the whole."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.loss import LOSSES, Criterion, FocalLoss, bands
from utils.loss.functions import dice_loss, lovasz_softmax_loss

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])
NUM_CLASSES = len(WEIGHTS)
MIX = "cross_entropy:1,focal_loss:0.5,ohem:0.3,dice:0.7,lovasz:2"
CASES = [*LOSSES, MIX]
PIXEL_LOSSES = ["cross_entropy", "focal_loss", "cross_entropy:0.3,focal_loss:2"]


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES_CPU", 1500)


def build(loss_type: str, *, options: bool, aux_weight: float = 0.0) -> Criterion:
    """With `options`, all that this loss knows differ from their defaults."""
    if not options:
        return Criterion(loss_type, aux_weight=aux_weight)
    return Criterion(
        loss_type,
        options={"focal_gamma": 1.5, "focal_alpha": 0.25, "label_smoothing": 0.1},
        class_weights=WEIGHTS,
        aux_weight=aux_weight,
    )


def random_batch(
    seed: int, *, size: tuple[int, int] = (6, 7), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits (2,C,*size) and uint8 labels (2,6,7), a share of them 255, and without class 4."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, NUM_CLASSES, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, NUM_CLASSES - 1, (2, 6, 7), generator=generator).byte()
    share = torch.rand((), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < share * 0.9] = 255
    labels[0, 0, 0], labels[0, 0, 1] = 1, 255
    return logits.to(dtype).requires_grad_(), labels


def value_and_gradient(
    criterion: Criterion, logits: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    value = criterion(logits, labels)
    return value, torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("loss_type", CASES)
@pytest.mark.parametrize("size", [(6, 7), (3, 4)], ids=["full size", "low resolution"])
def test_gradcheck(loss_type: str, options: bool, size: tuple[int, int]) -> None:
    logits, labels = random_batch(0, size=size)
    criterion = build(loss_type, options=options)
    assert torch.autograd.gradcheck(
        lambda values: criterion(values, labels), (logits,), fast_mode=True
    )


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("loss_type", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_ignored_pixels_change_nothing(loss_type: str, options: bool, seed: int) -> None:
    criterion = build(loss_type, options=options)
    logits, labels = random_batch(seed)
    ignored = (labels == 255)[:, None].expand_as(logits)
    value, gradient = value_and_gradient(criterion, logits, labels)
    assert value > 0 and gradient.any() and not gradient[ignored].any()

    other = logits.detach().clone()
    other[ignored] = 100 * torch.randn(int(ignored.sum()), dtype=torch.float64)
    other_value, other_gradient = value_and_gradient(criterion, other.requires_grad_(), labels)
    torch.testing.assert_close(other_value, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-10, atol=1e-15)

    # And the same as if they were not there at all.
    labeled = labels != 255
    pixels = logits.permute(0, 2, 3, 1)[labeled].T[None, :, None]  # (1, C, 1, P)
    torch.testing.assert_close(criterion(pixels, labels[labeled][None, None]), value)


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("loss_type", CASES)
def test_pixel_order_changes_nothing(loss_type: str, options: bool) -> None:
    criterion = build(loss_type, options=options)
    logits, labels = random_batch(3)
    order = torch.randperm(2 * 6 * 7, generator=torch.Generator().manual_seed(0))
    pixels = logits.detach().permute(0, 2, 3, 1).reshape(-1, NUM_CLASSES)[order]
    mixed = pixels.reshape(2, 6, 7, NUM_CLASSES).permute(0, 3, 1, 2).requires_grad_()
    mixed_labels = labels.reshape(-1)[order].reshape(2, 6, 7)
    value, gradient = value_and_gradient(criterion, logits, labels)
    mixed_value, mixed_gradient = value_and_gradient(criterion, mixed, mixed_labels)
    torch.testing.assert_close(mixed_value, value)
    pixels = gradient.permute(0, 2, 3, 1).reshape(-1, NUM_CLASSES)[order]
    torch.testing.assert_close(mixed_gradient.permute(0, 2, 3, 1).reshape(-1, NUM_CLASSES), pixels)


@pytest.mark.parametrize("loss_type", CASES)
def test_perfect_prediction_is_the_minimum(loss_type: str) -> None:
    _, labels = random_batch(4)
    truth = F.one_hot(torch.where(labels == 255, 0, labels).long(), NUM_CLASSES)
    perfect = 100 * truth.permute(0, 3, 1, 2).double()
    criterion = build(loss_type, options=False)
    assert 0 <= criterion(perfect, labels).item() < 1e-12
    for seed in range(5):
        noise = random_batch(10 + seed)[0].detach()
        assert criterion(perfect + 30 * noise, labels) > 1e-6
        assert criterion(0.05 * perfect + 0.1 * noise, labels) > 1e-6


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("loss_type", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(
    loss_type: str, options: bool, dtype: torch.dtype
) -> None:
    """Under autocast, with a scaled loss as by GradScaler: the scale is 2**16."""
    criterion = build(loss_type, options=options)
    logits, labels = random_batch(5, size=(3, 4), dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(criterion, logits, labels)
        (scaled,) = torch.autograd.grad(criterion(logits, labels) * 2**16 / 1e3, logits)
    exact = logits.detach().float().requires_grad_()
    expected, expected_gradient = value_and_gradient(criterion, exact, labels)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert gradient.dtype == dtype and gradient.isfinite().all()
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=1e-2, atol=1e-7)
    # Not rounded to half precision before the multiplication, where small ones would be lost.
    torch.testing.assert_close(
        scaled, (expected_gradient * (2**16 / 1e3)).to(dtype), rtol=1e-2, atol=1e-7
    )


def test_small_gradients_survive_float16() -> None:
    """1.5e-8 is 0 in float16, 2**16 times as much is not."""
    logits = torch.tensor([18.0, 0.0]).reshape(1, 2, 1, 1).half().requires_grad_()
    value = Criterion("cross_entropy")(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    (gradient,) = torch.autograd.grad(value * 2**16, logits)
    p = 1 / (1 + math.exp(18))
    assert gradient[0, 1].item() == pytest.approx(p * 2**16, rel=1e-2)


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("loss_type", CASES)
def test_no_labeled_pixel_gives_zero(loss_type: str, options: bool) -> None:
    layer = nn.Conv2d(3, NUM_CLASSES, 1)
    criterion = build(loss_type, options=options)
    labels = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    for count in (None, torch.tensor(10.0, dtype=torch.float64)):
        layer.zero_grad()
        value = criterion(layer(torch.randn(2, 3, 4, 4)), labels, count=count)
        assert value.item() == 0
        value.backward()
        assert layer.weight.grad is not None and not layer.weight.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_equals_torch(
    smoothing: float, weight: Tensor | None, dtype: torch.dtype
) -> None:
    logits, labels = random_batch(6, size=(4, 3), dtype=dtype)
    criterion = Criterion(
        "cross_entropy", class_weights=weight, options={"label_smoothing": smoothing}
    )
    value, gradient = value_and_gradient(criterion, logits, labels)
    expected = F.cross_entropy(
        F.interpolate(logits, size=(6, 7), mode="bilinear", align_corners=False),
        labels.long(),
        weight=None if weight is None else weight.to(dtype),
        label_smoothing=smoothing,
        ignore_index=255,
    )
    assert value.dtype == dtype
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("easy", [False, True], ids=["by threshold", "by share"])
def test_ohem_is_the_cross_entropy_of_the_hard_pixels(
    smoothing: float, weight: Tensor | None, easy: bool
) -> None:
    logits, labels = random_batch(7)
    if easy:  # p_y above 0.7 nearly everywhere
        truth = F.one_hot(labels.long() % 255, NUM_CLASSES).permute(0, 3, 1, 2)
        logits = 0.1 * logits.detach() + 5 * truth
    labeled = labels != 255
    pixels, truth = logits.permute(0, 2, 3, 1)[labeled], labels[labeled].long()
    p_y = pixels.softmax(1)[torch.arange(len(truth)), truth]
    num_below, fewest = int((p_y < 0.7).sum()), math.ceil(len(truth) / 16)
    assert (num_below < fewest) == easy and fewest > 1
    hardest = p_y.argsort()[: max(num_below, fewest)]
    expected = F.cross_entropy(
        pixels[hardest],
        truth[hardest],
        weight=None if weight is None else weight.double(),
        label_smoothing=smoothing,
    )
    criterion = Criterion("ohem", class_weights=weight, options={"label_smoothing": smoothing})
    torch.testing.assert_close(criterion(logits, labels), expected)


def test_mix_is_the_weighted_sum_of_its_losses() -> None:
    logits, labels = random_batch(8, size=(4, 5))
    full = F.interpolate(logits, size=(6, 7), mode="bilinear", align_corners=False)
    expected = (
        F.cross_entropy(full, labels.long(), ignore_index=255)
        + 0.5 * FocalLoss()(full, labels)
        + 0.3 * Criterion("ohem")(full, labels)
        + 0.7 * dice_loss(full, labels)
        + 2 * lovasz_softmax_loss(full, labels)
    )
    torch.testing.assert_close(Criterion(MIX)(logits, labels), expected)


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("loss_type", CASES)
def test_shares_add_up(loss_type: str, options: bool) -> None:
    """Parts with very different numbers of labeled pixels, one with none."""
    criterion = build(loss_type, options=options, aux_weight=0.4)
    logits = torch.cat([random_batch(seed, size=(3, 4))[0].detach() for seed in range(2)])
    aux = torch.cat([random_batch(seed, size=(2, 3))[0].detach() for seed in range(2, 4)])
    labels = torch.cat([random_batch(seed)[1] for seed in range(2)])
    labels[1] = 255
    labels[2, 2:] = 255
    logits.requires_grad_()
    whole = criterion({"out": logits, "aux": aux}, labels)
    parts = [
        ({"out": logits[rows], "aux": aux[rows]}, labels[rows])
        for rows in (slice(0, 1), slice(1, 2), slice(2, 4))
    ]
    counts = [criterion.count(part_labels) for _, part_labels in parts]
    count = torch.stack(counts).sum()
    torch.testing.assert_close(count, criterion.count(labels))
    total = sum(criterion(outputs, part, count=count) for outputs, part in parts)
    if loss_type not in PIXEL_LOSSES:
        values = [criterion(outputs, part).detach() for outputs, part in parts]
        mean = sum(value * own for value, own in zip(values, counts, strict=True)) / count
        torch.testing.assert_close(total.detach(), mean)
        return
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(
        torch.autograd.grad(total, logits), torch.autograd.grad(whole, logits)
    )


@pytest.mark.parametrize("loss_type", PIXEL_LOSSES)
def test_shares_of_pixel_losses_with_another_count(loss_type: str) -> None:
    logits, labels = random_batch(9)
    criterion = Criterion(loss_type)
    count = 2 * criterion.count(labels)
    torch.testing.assert_close(
        criterion(logits, labels, count=count) * 2, criterion(logits, labels)
    )


def test_count_is_exact_beyond_float32() -> None:
    labels = torch.zeros(1, 2**12, 2**12 + 1, dtype=torch.uint8)
    labels[0, 0, 0] = 255
    assert Criterion("dice").count(labels).item() == 2**24 + 2**12 - 1


def test_outputs() -> None:
    logits, labels = random_batch(11, size=(3, 4))
    aux, _ = random_batch(12, size=(2, 2))
    plain = Criterion("cross_entropy")
    with_aux = Criterion("cross_entropy", aux_weight=0.4)
    both = {"out": logits, "aux": aux}
    assert torch.equal(plain(logits, labels), plain({"out": logits}, labels))
    assert torch.equal(plain(both, labels), plain(logits, labels))
    torch.testing.assert_close(
        with_aux(both, labels), plain(logits, labels) + 0.4 * plain(aux, labels)
    )
    assert torch.equal(with_aux(logits, labels), plain(logits, labels))
