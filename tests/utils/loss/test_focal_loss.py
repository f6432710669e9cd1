"""Focal loss against torch where that is defined, against its formula, and by property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.loss import FocalLoss

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])
NUM_CLASSES = len(WEIGHTS)
LOSSES = {
    "focal": lambda: FocalLoss(),
    "focal gamma 0.5": lambda: FocalLoss(gamma=0.5),
    "focal weighted": lambda: FocalLoss(alpha=0.25, weight=WEIGHTS),
    "focal sum": lambda: FocalLoss(size_average=False),
}


def random_batch(seed: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits (2, C, 6, 7) and labels (2, 6, 7), a random share of them 255."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, NUM_CLASSES, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, NUM_CLASSES, (2, 6, 7), generator=generator)
    share = torch.rand((), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < share * 0.9] = 255
    labels[0, 0, 0], labels[0, 0, 1] = 1, 255
    return logits.to(dtype).requires_grad_(), labels


def focal_by_hand(
    logits: Tensor, labels: Tensor, *, gamma: float, alpha: float, weights: np.ndarray
) -> tuple[float, float]:
    """The formula of Lin et al. 2017 pixel by pixel: the sum, and the sum of the weights."""
    total, count = 0.0, 0.0
    pixels = logits.detach().double().numpy().transpose(0, 2, 3, 1).reshape(-1, NUM_CLASSES)
    for scores, label in zip(pixels, labels.reshape(-1).tolist(), strict=True):
        if label == 255:
            continue
        p = np.exp(scores[label]) / np.exp(scores).sum()
        total += alpha * weights[label] * (1 - p) ** gamma * -np.log(p)
        count += weights[label]
    return total, count


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name: str) -> None:
    logits, labels = random_batch(0)
    loss = LOSSES[name]()
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), (logits,))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(5))
def test_ignored_pixels_change_neither_value_nor_gradient(name: str, seed: int) -> None:
    loss = LOSSES[name]()
    logits, labels = random_batch(seed)
    ignored = (labels == 255)[:, None].expand_as(logits)
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value > 0 and not gradient[ignored].any()

    other = logits.detach().clone()
    other[ignored] = 100 * torch.randn(int(ignored.sum()), dtype=torch.float64)
    other.requires_grad_()
    other_value = loss(other, labels)
    (other_gradient,) = torch.autograd.grad(other_value, other)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)

    # And the same as if they were not there at all.
    labeled = labels != 255
    pixels = logits.permute(0, 2, 3, 1)[labeled].T[None, :, None]  # (1, C, 1, P)
    torch.testing.assert_close(value, loss(pixels, labels[labeled][None, None]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_labeled_pixel_gives_zero(name: str, dtype: torch.dtype) -> None:
    features = torch.randn(2, 3, 4, 4)
    layer = nn.Conv2d(3, NUM_CLASSES, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = layer(features)
        value = LOSSES[name]()(logits, torch.full((2, 4, 4), 255))
    assert logits.dtype == dtype
    assert value.item() == 0
    value.backward()
    assert layer.weight.grad is not None and not layer.weight.grad.any()


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_torch(weight: Tensor | None, dtype: torch.dtype) -> None:
    """Focal loss with gamma 0 and alpha 1 is cross entropy."""
    logits, labels = random_batch(1, dtype=dtype)
    value = FocalLoss(1, 0, weight=weight)(logits, labels)
    torch_weight = None if weight is None else weight.to(dtype)
    expected = F.cross_entropy(logits, labels, weight=torch_weight, ignore_index=255)
    assert value.dtype == dtype
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits)
    )


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("alpha", [1, 0.25])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_equals_the_formula(gamma: float, alpha: float, weighted: bool) -> None:
    logits, labels = random_batch(2)
    weights = WEIGHTS.double().numpy() if weighted else np.ones(NUM_CLASSES)
    total, count = focal_by_hand(logits, labels, gamma=gamma, alpha=alpha, weights=weights)
    weight = WEIGHTS if weighted else None
    mean = FocalLoss(alpha, gamma, weight=weight)(logits, labels)
    summed = FocalLoss(alpha, gamma, size_average=False, weight=weight)(logits, labels)
    assert mean.item() == pytest.approx(total / count, rel=1e-9)
    assert summed.item() == pytest.approx(total, rel=1e-9)


def test_default_focal_gamma_is_2_and_not_cross_entropy() -> None:
    """p = 1/2 on two classes: (1/2)**2 * log 2."""
    logits, labels = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]])
    assert FocalLoss()(logits, labels).item() == pytest.approx(0.25 * np.log(2))


@pytest.mark.parametrize("gamma", [0, 0.1, 0.5, 1, 2])
def test_focal_gradient_is_finite_where_the_network_is_certain(gamma: float) -> None:
    logits = torch.tensor([1000.0, 0.0, -1000.0]).reshape(1, 3, 1, 1).requires_grad_()
    right = FocalLoss(gamma=gamma)(logits, torch.tensor([[[0]]]))
    (gradient,) = torch.autograd.grad(right, logits)
    assert right == 0 and not gradient.any()
    wrong = FocalLoss(gamma=gamma)(logits, torch.tensor([[[2]]]))
    (gradient,) = torch.autograd.grad(wrong, logits)
    assert wrong.item() == pytest.approx(2000)
    assert gradient.reshape(-1).tolist() == pytest.approx([1, 0, -1])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels = random_batch(3, dtype=dtype)
    value = LOSSES[name]()(logits, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name]()(logits.float(), labels))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.dtype == dtype and gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_label_types(name: str, dtype: torch.dtype) -> None:
    logits, labels = random_batch(4)
    loss = LOSSES[name]()
    assert torch.equal(loss(logits, labels.to(dtype)), loss(logits, labels))


def test_other_ignore_index() -> None:
    logits, labels = random_batch(6)
    moved = torch.where(labels == 255, 7, labels)
    assert torch.equal(FocalLoss(ignore_index=7)(logits, moved), FocalLoss()(logits, labels))


def test_bad_input() -> None:
    logits, labels = random_batch(8)
    with pytest.raises(ValueError, match=r"\(2, 5, 6, 7\) and labels \(2, 7, 6\)"):
        FocalLoss()(logits, labels.mT)
    with pytest.raises(ValueError, match="torch.float32; they must be integer"):
        FocalLoss()(logits, labels.float())
    with pytest.raises(ValueError, match="3 class weights for 5 classes"):
        FocalLoss(weight=torch.ones(3))(logits, labels)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="class weights"):
            FocalLoss(weight=torch.tensor([1.0, wrong]))
    for gamma, alpha in ((-1, 1), (2, 0), (float("nan"), 1)):
        with pytest.raises(ValueError, match="gamma must be >= 0 and alpha > 0"):
            FocalLoss(alpha, gamma)
