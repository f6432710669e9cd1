"""Dice, Lovasz-softmax and hard pixels against their definitions, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.loss.functions import (
    _lovasz_slopes,
    dice_loss,
    hard_labels,
    label_probability,
    labeled_weight,
    lovasz_softmax_loss,
)


def random_pixels(seed: int, *, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits (2,C,3,4) in float64 and labels (2,3,4): class 2 never occurs, a third is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, num_classes, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (2, 3, 4), generator=generator)
    labels[labels == 2] = 255
    labels[0, 0, :2] = torch.tensor([0, 255])
    return logits, labels


def labeled_rows(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Softmax (P,C) and labels (P,) of the labeled pixels."""
    scores = np.exp(logits.numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1]))
    mask = labels.numpy().reshape(-1) != 255
    return (scores / scores.sum(axis=1, keepdims=True))[mask], labels.numpy().reshape(-1)[mask]


def lovasz_by_definition(probability: np.ndarray, labels: np.ndarray) -> float:
    """Eq. 8 to 12 of Berman et al. with sets: the Lovasz extension of the Jaccard loss."""
    losses = []
    for number in sorted(set(labels.tolist())):
        truth = {i for i, label in enumerate(labels) if label == number}
        errors = [
            1 - row[number] if i in truth else row[number] for i, row in enumerate(probability)
        ]
        loss, wrong = 0.0, set()
        for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
            before = len(wrong) / len(truth | wrong)
            wrong.add(i)
            loss += errors[i] * (len(wrong) / len(truth | wrong) - before)
        losses.append(loss)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(6))
def test_lovasz_equals_its_definition(seed: int) -> None:
    logits, labels = random_pixels(seed)
    value = lovasz_softmax_loss(logits, labels).item()
    assert value == pytest.approx(lovasz_by_definition(*labeled_rows(logits, labels)), rel=1e-12)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    """Certain predictions: class 0 has IoU 2/4, class 1 IoU 1/3; class 2 is only predicted."""
    labels = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 1, 0, 2]]])
    logits = 200.0 * torch.nn.functional.one_hot(predicted, 3).permute(0, 3, 1, 2)
    assert lovasz_softmax_loss(logits, labels).item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_lovasz_slopes_of_an_absent_class_are_zero() -> None:
    """They are computed where asking for absence would wait for the device."""
    labeled = torch.tensor([True, False, True])
    slopes = _lovasz_slopes(torch.tensor([0.3, 0.4, 0.1]), torch.zeros_like(labeled), labeled)
    assert slopes.tolist() == [0, 0, 0]


def test_lovasz_slopes_are_exact_over_many_pixels() -> None:
    """Differences of Jaccard losses in float32 would be off by a tenth here."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 1000, 1000, generator=generator)
    labels = torch.randint(0, 2, (1, 1000, 1000), generator=generator)
    gradients = []
    for values in (logits.requires_grad_(), logits.detach().double().requires_grad_()):
        (gradient,) = torch.autograd.grad(lovasz_softmax_loss(values, labels), values)
        gradients.append(gradient.double())
    error = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_dice_equals_its_formula(seed: int) -> None:
    logits, labels = random_pixels(seed)
    probability, truth = labeled_rows(logits, labels)
    losses = [
        1 - 2 * probability[truth == k, k].sum() / (probability[:, k].sum() + (truth == k).sum())
        for k in sorted(set(truth.tolist()))
    ]
    assert 2 not in truth and len(losses) >= 2
    assert dice_loss(logits, labels).item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_dice_by_hand() -> None:
    """p = 1/2 everywhere, 3 pixels of class 0, 1 of class 1: 1 - 3/5 and 1 - 1/3."""
    labels = torch.tensor([[[0, 0, 0, 1, 255]]])
    assert dice_loss(torch.zeros(1, 2, 1, 5), labels).item() == pytest.approx((2 / 5 + 2 / 3) / 2)


def test_hard_pixels_by_hand() -> None:
    probability = torch.tensor([[[0.1, 0.9, 0.69, 0.7, 0.2, 0.99]]])
    labels = torch.tensor([[[3, 1, 2, 0, 255, 1]]])
    assert hard_labels(probability, labels).tolist() == [[[3, 255, 2, 255, 255, 255]]]
    # 4 of the 5 labeled, though only 2 are below the threshold.
    assert hard_labels(probability, labels, min_kept=0.8).tolist() == [[[3, 1, 2, 0, 255, 255]]]
    assert hard_labels(probability, labels, threshold=1).tolist() == labels.tolist()
    # Rounded up: one pixel at least; and the hardest, however easy.
    assert hard_labels(probability, labels, threshold=0).tolist() == [[[3] + [255] * 5]]
    nothing = torch.full_like(labels, 255)
    assert torch.equal(hard_labels(probability, nothing), nothing)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("min_kept", [0.1, 0.5, 1.0])
def test_hard_pixels_are_the_hardest(seed: int, min_kept: float) -> None:
    logits, labels = random_pixels(seed)
    probability, truth = labeled_rows(logits, labels)
    p_y = probability[np.arange(len(truth)), truth]
    torch.testing.assert_close(label_probability(logits, labels)[labels != 255].numpy(), p_y)
    kept = hard_labels(label_probability(logits, labels), labels, threshold=0.05, min_kept=min_kept)
    chosen = (kept[labels != 255] != 255).numpy()
    fewest = int(np.ceil(min_kept * len(truth)))
    assert chosen.sum() == max(fewest, (p_y < 0.05).sum())
    assert p_y[chosen].max() <= p_y[~chosen].min(initial=np.inf)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labeled_weight(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[0, 0, 1, 255, 2]]]).to(dtype)
    assert labeled_weight(labels, None, ignore_index=255).item() == 4
    assert labeled_weight(labels, torch.tensor([0.5, 3.0, 0.0]), ignore_index=255).item() == 4.0
    assert labeled_weight(labels, None, ignore_index=255).dtype == torch.float64
