from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from network.inference import predict_labels
from network.utils import SimpleSegmentationModel


class Blocks(nn.Module):
    """Random scores at a given fraction of the image's size."""

    def __init__(self, classes: int, height: int, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(height * width)
        self.scores = torch.randn(1, classes, height, width, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1, -1, -1)


@pytest.mark.parametrize(
    ("image", "scores"),
    [((128, 96), (32, 24)), ((129, 97), (33, 25)), ((200, 33), (13, 3)), ((64, 64), (64, 64))],
)
def test_labels_are_those_of_the_plain_way(image: tuple[int, int], scores: tuple[int, int]) -> None:
    model = SimpleSegmentationModel(nn.Identity(), Blocks(19, *scores)).double()
    images = torch.zeros(2, 3, *image, dtype=torch.float64)
    labels = predict_labels(model, images)
    logits = model(images)
    assert labels.shape == (2, *image) and labels.dtype == torch.uint8
    # Two scores closer than rounding may change places, nothing else may.
    chosen = logits.gather(1, labels[:, None].long())[:, 0]
    assert (logits.max(1)[0] - chosen).max() < 1e-5
    assert (labels == logits.argmax(1)).double().mean() > 0.9999


def test_many_classes_do_not_wrap_around() -> None:
    model = SimpleSegmentationModel(nn.Identity(), Blocks(300, 9, 9))
    labels = predict_labels(model, torch.zeros(1, 3, 36, 36))
    assert labels.max() > 255
