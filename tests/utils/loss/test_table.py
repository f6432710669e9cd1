"""What --loss_type and the options of losses may be, and which options a loss uses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from utils.loss import LOSSES, Criterion, parse_loss


def batch() -> tuple[Tensor, Tensor]:
    """Logits (2,5,6,7) and labels (2,6,7)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 6, 7, generator=generator)
    return logits, torch.randint(0, 5, (2, 6, 7), generator=generator)


def test_names_and_factors() -> None:
    assert parse_loss("dice") == {"dice": 1.0}
    assert parse_loss("cross_entropy:1, dice:0.5") == {"cross_entropy": 1.0, "dice": 0.5}
    assert list(parse_loss("dice,lovasz:2")) == ["dice", "lovasz"]
    assert LOSSES["cross_entropy"].options == {"class_weights", "label_smoothing"}
    assert LOSSES["ohem"].options == {"class_weights", "label_smoothing"}
    assert LOSSES["focal_loss"].options == {"class_weights", "focal_gamma", "focal_alpha"}
    assert LOSSES["dice"].options == LOSSES["lovasz"].options == set()


@pytest.mark.parametrize("name", ["class_weights", "label_smoothing", "focal_gamma", "focal_alpha"])
@pytest.mark.parametrize("loss_type", [*LOSSES, "cross_entropy:1,dice:0.5", "focal_loss,lovasz"])
def test_options_of_a_loss_are_those_that_change_it(loss_type: str, name: str) -> None:
    logits, labels = batch()
    if name == "class_weights":
        weights = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])
        changed = Criterion(loss_type, class_weights=weights)
    else:
        value = {"label_smoothing": 0.3, "focal_gamma": 0.5, "focal_alpha": 0.25}[name]
        changed = Criterion(loss_type, options={name: value})
    equal = torch.equal(changed(logits, labels), Criterion(loss_type)(logits, labels))
    assert equal == all(name not in LOSSES[loss].options for loss in parse_loss(loss_type))


def test_options_of_a_whole_run_are_taken_too() -> None:
    """Only those the loss uses matter: not what else is set, nor the file of class weights."""
    logits, labels = batch()
    run = {"focal_gamma": 0.5, "lr": 0.1, "precision": "bf16", "class_weights": "weights.txt"}
    plain = Criterion("focal_loss,dice", options={"focal_gamma": 0.5})
    assert torch.equal(
        Criterion("focal_loss,dice", options=run)(logits, labels), plain(logits, labels)
    )


@pytest.mark.parametrize(
    ("loss_type", "message"),
    [
        ("cross_entropi:1", "unknown loss 'cross_entropi' in .*; did you mean 'cross_entropy'"),
        ("qqq", "unknown loss 'qqq'.*; choose from: cross_entropy, focal_loss, ohem, dice, lovasz"),
        ("", "unknown loss ''"),
        ("dice,", "unknown loss ''"),
        ("dice:1e300", "is '1e300'; give a number above 0 and at most 1e"),
        ("dice:0", "factor of dice in 'dice:0' is '0'; give a number above 0"),
        ("dice:-1", "factor of dice in .* is '-1'"),
        ("dice:nan", "factor of dice in .* is 'nan'"),
        ("dice:inf", "factor of dice in .* is 'inf'"),
        ("dice:", "factor of dice in .* is ''"),
        ("dice:much", "factor of dice in .* is 'much'"),
        ("dice:1,dice:2", "'dice:1,dice:2' names dice twice"),
    ],
)
def test_bad_loss_types(loss_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Criterion(loss_type)
    assert "\n" not in str(error.value)


def test_bad_numbers() -> None:
    with pytest.raises(ValueError, match="class weights"):
        Criterion("dice", class_weights=torch.tensor([-1.0]))
    logits, labels = batch()
    with pytest.raises(ValueError, match=r"\(2, 5, 6, 7\) and labels \(1, 6, 7\)"):
        Criterion("dice")(logits, labels[:1])
    with pytest.raises(ValueError, match="2 class weights for 5 classes"):
        Criterion("cross_entropy", class_weights=torch.ones(2))(logits, labels.clamp(max=1))
