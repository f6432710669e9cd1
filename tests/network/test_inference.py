"""Labels from low-resolution scores, compared with upsampling all of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from network.inference import _Axis, labels_from_logits, predict_labels
from network.utils import SimpleSegmentationModel

# Image and scores (H,W): whole ratios, broken ones, one score, no ratio, fewer pixels than scores.
SIZES = [
    ((128, 96), (32, 24)),
    ((129, 97), (33, 25)),
    ((200, 33), (13, 3)),
    ((375, 500), (94, 125)),
    ((37, 50), (1, 1)),
    ((40, 40), (40, 10)),
    ((64, 64), (64, 64)),
    ((45, 31), (44, 30)),
    ((20, 30), (33, 41)),
]


def random_scores(classes: int, size: tuple[int, int], *, smooth: bool = False) -> Tensor:
    """(2,C,h,w) float64; smooth ones change slowly, as a trained network's do."""
    generator = torch.Generator().manual_seed(size[0] * size[1])
    grid = tuple(max(side // 12, 2) for side in size) if smooth else size
    scores = torch.randn(2, classes, *grid, generator=generator, dtype=torch.float64)
    return F.interpolate(scores, size=size, mode="bicubic", align_corners=False)


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores.double(), size=size, mode="bilinear", align_corners=False)


def check(labels: Tensor, scores: Tensor) -> None:
    """Each label's score is the best but for 1e-5."""
    assert labels.shape == (len(scores), *scores.shape[-2:]) and labels.dtype == torch.uint8
    chosen = scores.gather(1, labels[:, None].long())[:, 0]
    assert (scores.amax(1) - chosen).max() < 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(("image", "size"), SIZES)
def test_labels_are_those_of_the_plain_way(image, size, smooth, layout) -> None:
    scores = random_scores(19, size, smooth=smooth)
    expected = upsample(scores, image)
    labels = labels_from_logits(scores.contiguous(memory_format=layout), image)
    check(labels, expected)
    assert (labels == expected.argmax(1)).double().mean() > 0.9999
    check(labels_from_logits(scores.float().contiguous(memory_format=layout), image), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("image", "size"), SIZES[:5])
def test_scores_of_half_precision_are_not_rounded_again(image, size, dtype) -> None:
    scores = random_scores(19, size).to(dtype)
    check(labels_from_logits(scores, image), upsample(scores, image))


@pytest.mark.parametrize("classes", [256, 257])
def test_many_classes_do_not_wrap_around(classes: int) -> None:
    scores = random_scores(classes, (9, 9))
    labels = labels_from_logits(scores, (36, 36))
    assert labels.dtype == (torch.uint8 if classes == 256 else torch.int16)
    assert torch.equal(labels.long(), upsample(scores, (36, 36)).argmax(1))
    assert labels.max() > 250


def test_a_single_class_is_everywhere() -> None:
    assert labels_from_logits(torch.randn(1, 1, 5, 5), (20, 21)).eq(0).all()


@pytest.mark.parametrize("size", [(40, 40), (10, 10)])
def test_a_network_that_gives_no_numbers_gives_labels_all_the_same(size: tuple[int, int]) -> None:
    scores = random_scores(19, (10, 10))
    scores[0, :, 3:6] = torch.nan
    assert labels_from_logits(scores, size).max() < 19


class MadeTensors(TorchDispatchMode):
    """Elements of the largest floating-point tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.largest = max(self.largest, result.numel())
        return result


def test_scores_are_never_all_upsampled() -> None:
    scores = random_scores(19, (120, 160)).float()
    with MadeTensors() as made:
        labels_from_logits(scores, (480, 640))
    assert 0 < made.largest <= scores.numel()


def test_one_call_from_images_to_labels() -> None:
    torch.manual_seed(0)
    head = nn.Conv2d(3, 7, 8, stride=4).double()
    model = SimpleSegmentationModel(nn.Identity(), head)
    images = torch.randn(2, 3, 64, 80, dtype=torch.float64)
    records = []
    hook = head.register_forward_hook(lambda *_: records.append(torch.is_inference_mode_enabled()))
    labels = predict_labels(model, images)
    hook.remove()
    with torch.no_grad():
        check(labels, model(images))
    assert records == [True] and labels.is_inference()


def test_the_places_of_pixels_are_copied_to_the_device_once() -> None:
    before = _Axis.between.cache_info().misses
    for _ in range(3):
        labels_from_logits(random_scores(3, (11, 17)), (51, 73))
    assert _Axis.between.cache_info().misses == before + 2
