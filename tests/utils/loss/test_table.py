"""What --loss_type and the numbers beside it may be, and which of them a loss uses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from utils.loss import LOSSES, create_criterion, parse_loss, uses


def batch() -> tuple[Tensor, Tensor]:
    """Logits (2,5,6,7) and labels (2,6,7)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 6, 7, generator=generator)
    return logits, torch.randint(0, 5, (2, 6, 7), generator=generator)


def test_names_and_factors() -> None:
    assert parse_loss("dice") == {"dice": 1.0}
    assert parse_loss("cross_entropy:1, dice:0.5") == {"cross_entropy": 1.0, "dice": 0.5}
    assert uses("cross_entropy") == uses("ohem,dice") == {"class_weights", "label_smoothing"}
    assert uses("focal_loss") == {"class_weights", "focal_gamma", "focal_alpha"}
    assert uses("dice,lovasz:2") == set()


@pytest.mark.parametrize("name", ["class_weights", "label_smoothing", "focal_gamma", "focal_alpha"])
@pytest.mark.parametrize("loss_type", [*LOSSES, "cross_entropy:1,dice:0.5", "focal_loss,lovasz"])
def test_uses_says_which_options_change_the_loss(loss_type: str, name: str) -> None:
    changed = {
        "class_weights": torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0]),
        "label_smoothing": 0.3,
        "focal_gamma": 0.5,
        "focal_alpha": 0.25,
    }
    logits, labels = batch()
    default = create_criterion(loss_type)(logits, labels)
    value = create_criterion(loss_type, **{name: changed[name]})(logits, labels)
    assert torch.equal(value, default) == (name not in uses(loss_type))


@pytest.mark.parametrize(
    ("loss_type", "message"),
    [
        ("cross_entropi:1", "unknown loss 'cross_entropi' in .*; did you mean 'cross_entropy'"),
        ("qqq", "unknown loss 'qqq'.*; choose from: cross_entropy, focal_loss, ohem, dice, lovasz"),
        ("", "unknown loss ''"),
        ("dice,", "unknown loss ''"),
        ("dice:0", "weight '0' of dice in 'dice:0'; give a number > 0"),
        ("dice:-1", "weight '-1' of dice"),
        ("dice:nan", "weight 'nan' of dice"),
        ("dice:inf", "weight 'inf' of dice"),
        ("dice:", "weight '' of dice"),
        ("dice:much", "weight 'much' of dice"),
        ("dice:1,dice:2", "dice is twice"),
    ],
)
def test_bad_loss_types(loss_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        create_criterion(loss_type)
    assert "\n" not in str(error.value)


def test_bad_numbers() -> None:
    for smoothing in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="label smoothing"):
            create_criterion("dice", label_smoothing=smoothing)
    with pytest.raises(ValueError, match="auxiliary loss weight -1"):
        create_criterion("dice", aux_weight=-1)
    with pytest.raises(ValueError, match="gamma must be >= 0"):
        create_criterion("dice", focal_gamma=-1)
    with pytest.raises(ValueError, match="class weights"):
        create_criterion("dice", class_weights=torch.tensor([-1.0]))
    logits, labels = batch()
    with pytest.raises(ValueError, match=r"\(2, 5, 6, 7\) and labels \(1, 6, 7\)"):
        create_criterion("dice")(logits, labels[:1])
    with pytest.raises(ValueError, match="2 class weights for 5 classes"):
        create_criterion("cross_entropy", class_weights=torch.ones(2))(logits, labels.clamp(max=1))
