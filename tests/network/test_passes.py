"""Probabilities averaged over mirrored and scaled images, against the plain computation."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.inference import predict_labels
from network.passes import labels_of_passes, logits_of_passes, most_probable
from network.utils import SimpleSegmentationModel
from tests.network.test_inference import MadeTensors, random_scores

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def tiny(num_classes: int = 7) -> SimpleSegmentationModel:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Tanh())
    return SimpleSegmentationModel(layers, nn.Conv2d(8, num_classes, 3, padding=1)).eval()


def plain(model: nn.Module, images: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
    """The mean of the softmax of logits that were upsampled to full size: (N,C,H,W)."""
    size, found = tuple(images.shape[2:]), []
    for scale in scales:
        sides = tuple(max(round(side * scale), 33) for side in size)
        scaled = F.interpolate(images, sides, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True)[: 1 + flip]:
            logits = model.low_res_logits(scaled.flip(3) if mirrored else scaled)
            full = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)
            found.append(full.flip(3) if mirrored else full)
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 2.0), SCALES])
@pytest.mark.parametrize("size", [(64, 96), (45, 131)])
def test_equal_to_the_plain_way(size: tuple[int, int], scales, flip: bool) -> None:
    model, images = tiny(), torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = plain(model, images, scales, flip)
    passes = logits_of_passes(model, images, scales=scales, flip=flip)
    assert len(passes) == len(scales) * (1 + flip)
    labels, confidence = most_probable(passes, size)
    assert (confidence - expected.amax(1)).abs().max() < 1e-6
    chosen = expected.gather(1, labels[:, None].long())[:, 0]
    assert labels.dtype == torch.uint8 and (expected.amax(1) - chosen).max() < 1e-6
    assert torch.equal(labels_of_passes(passes, size).long(), labels.long())


def test_one_pass_gives_the_labels_of_always() -> None:
    model, images = tiny(), torch.randn(1, 3, 50, 70)
    passes = logits_of_passes(model, images)
    assert torch.equal(labels_of_passes(passes, (50, 70)), predict_labels(model, images))
    assert torch.equal(most_probable(passes, (50, 70))[0], predict_labels(model, images))


def test_the_scale_nearest_to_1_comes_first() -> None:
    model, images = tiny(), torch.randn(1, 3, 64, 64)
    passes = logits_of_passes(model, images, scales=(0.5, 1.75, 1.25))
    assert [x.shape[-1] for x in passes] == [20, 9, 28]


@pytest.mark.parametrize("num_passes", [1, 3])
def test_probabilities_never_exist_in_full_size(num_passes: int) -> None:
    passes = [random_scores(19, (16, 512 + 32 * i)).float() for i in range(num_passes)]
    with MadeTensors() as made:
        most_probable(passes, (64, 4096))
    full = 2 * 19 * 64 * 4096
    assert 0 < made.largest < full / 5


def test_half_precision_is_averaged_in_float32() -> None:
    scores = random_scores(7, (12, 12)).bfloat16()
    labels, confidence = most_probable([scores, scores.flip(3).flip(3)], (48, 48))
    expected = F.interpolate(scores.float(), (48, 48), mode="bilinear").softmax(1)
    assert (confidence - expected.amax(1)).abs().max() < 1e-6
