"""The decoder's convolution of upsampled features against torch's own, step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import network
from network import upsampled_conv
from network.upsampled_conv import ConcatConv2d

SIZES = [  # of the coarse and the sharp map
    ((4, 5), (16, 20)),
    ((3, 7), (11, 26)),
    ((9, 8), (33, 32)),
    ((1, 2), (4, 8)),
    ((2, 1), (16, 8)),
    ((33, 3), (66, 24)),
]


def plain(conv: ConcatConv2d, sharp: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    large = F.interpolate(coarse, size=sharp.shape[2:], mode="bilinear", align_corners=False)
    both = torch.cat([sharp, large], 1)
    return F.conv2d(both, conv.weight, conv.bias, padding=1)


@pytest.fixture
def conv() -> ConcatConv2d:
    torch.manual_seed(0)
    return ConcatConv2d(8, 6, 3, padding=1).double()


def maps(
    small: tuple[int, int], large: tuple[int, int], **kwargs: object
) -> tuple[torch.Tensor, ...]:
    kwargs = {"dtype": torch.float64, **kwargs}
    return torch.randn(2, 3, *large, **kwargs), torch.randn(2, 5, *small, **kwargs)


@pytest.fixture
def no_concatenation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upsampled map must not come into being."""

    def upsample(*args: object) -> None:
        raise AssertionError("upsampled")

    monkeypatch.setattr(upsampled_conv, "upsample", upsample)


@pytest.mark.usefixtures("no_concatenation")
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("band_bytes", [2**22, 1])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_values_and_gradients(
    conv: ConcatConv2d,
    small: tuple[int, int],
    large: tuple[int, int],
    band_bytes: int,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upsampled_conv, "BAND_BYTES", band_bytes)
    inputs = [x.to(memory_format=layout).requires_grad_() for x in maps(small, large)]
    wanted, got = plain(conv, *inputs), conv(*inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    leaves = [*inputs, conv.weight, conv.bias]
    upstream = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(got, leaves, upstream),
        torch.autograd.grad(wanted, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("no_concatenation")
def test_gradcheck(conv: ConcatConv2d) -> None:
    inputs = [x.requires_grad_() for x in maps((2, 3), (5, 7))]
    assert torch.autograd.gradcheck(conv, inputs)


@pytest.mark.usefixtures("no_concatenation")
def test_inputs_stay_as_they_are(conv: ConcatConv2d) -> None:
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in maps((3, 4), (12, 16))]
    before = [x.clone() for x in inputs]
    with torch.inference_mode():
        first, second = conv(*inputs), conv(*inputs)
    assert torch.equal(first, second)
    assert all(map(torch.equal, inputs, before))


@pytest.mark.usefixtures("no_concatenation")
def test_matrices_made_in_inference_serve_in_training(conv: ConcatConv2d) -> None:
    upsampled_conv._bands.cache_clear()
    inputs = maps((3, 4), (12, 16))
    with torch.inference_mode():
        conv(*inputs)
    conv(*inputs).sum().backward()
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.usefixtures("no_concatenation")
def test_bf16_rounds_no_more_than_the_plain_way(conv: ConcatConv2d) -> None:
    inputs = maps((8, 8), (32, 32))
    exact = plain(conv, *inputs)
    conv, inputs = conv.float(), [x.float() for x in inputs]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, theirs = conv(*inputs), plain(conv, *inputs)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    error = (ours.double() - exact).square().mean().sqrt()
    assert error < 1.5 * (theirs.double() - exact).square().mean().sqrt()


def test_one_map_is_convolved_as_ever(conv: ConcatConv2d) -> None:
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


@pytest.mark.parametrize(
    ("options", "small"),
    [
        ({"padding": 1}, (8, 9)),  # barely larger
        ({"padding": 2, "dilation": 2}, (3, 3)),
        ({"padding": 1, "padding_mode": "reflect"}, (3, 3)),
        ({"padding": 0}, (3, 3)),
        ({"padding": 1, "stride": 2}, (3, 3)),
    ],
)
def test_other_convolutions_see_the_upsampled_map(
    options: dict[str, object], small: tuple[int, int]
) -> None:
    conv = ConcatConv2d(8, 6, 3, **options).double()
    sharp, coarse = maps(small, (12, 12))
    large = F.interpolate(coarse, size=(12, 12), mode="bilinear", align_corners=False)
    assert torch.equal(conv(sharp, coarse), conv(torch.cat([sharp, large], 1)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(97, 129), (128, 64)])
def test_a_whole_network(
    size: tuple[int, int], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = network.create_model("deeplabv3plus_mobilenet", num_classes=5, pretrained="none")
    model.double().train(training)
    model.classifier.aspp.project[3].p = 0.0
    images = torch.randn(2, 3, *size, dtype=torch.float64)

    def scores_and_gradients() -> list[torch.Tensor]:
        scores = model.low_res_logits(images)
        return [scores, *torch.autograd.grad(scores.square().sum(), model.parameters())]

    ours = scores_and_gradients()
    monkeypatch.setattr(ConcatConv2d, "pays", lambda *args: False)
    theirs = scores_and_gradients()
    largest = max(x.abs().max().item() for x in theirs)  # some gradients are 0, but for rounding
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12 * largest)
