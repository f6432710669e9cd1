"""Convolutions of upsampled features against torch's own, of the upsampled maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import network
from network import upsampled_conv
from network.upsampled_conv import ConcatConv2d
from network.utils import SimpleSegmentationModel

SIZES = [  # of the coarse and the sharp map
    ((4, 5), (16, 20)),
    ((3, 7), (11, 26)),
    ((9, 8), (33, 32)),
    ((1, 2), (4, 8)),
    ((2, 1), (16, 8)),
    ((33, 3), (66, 24)),
]


def plain(conv: ConcatConv2d, sharp: torch.Tensor, *coarse: torch.Tensor) -> torch.Tensor:
    size = sharp.shape[2:]
    large = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in coarse]
    both = torch.cat([sharp, *large], 1)
    return F.conv2d(both, conv.weight, conv.bias, padding=conv.padding, dilation=conv.dilation)


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
    """The upsampled maps must not come into being."""

    def upsample(*args: object) -> None:
        raise AssertionError("upsampled")

    monkeypatch.setattr(upsampled_conv, "upsample", upsample)


def assert_same_and_gradients(conv: ConcatConv2d, *inputs: torch.Tensor) -> None:
    leaves = [*(x.requires_grad_() for x in inputs), *conv.parameters()]
    wanted, got = plain(conv, *inputs), conv(*inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
    upstream = torch.randn_like(wanted)
    # Squared: what comes before would be changed if something autograd needs were.
    for one, other in zip(
        torch.autograd.grad(got.square(), leaves, upstream),
        torch.autograd.grad(wanted.square(), leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


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
    inputs = [x.to(memory_format=layout) for x in maps(small, large)]
    assert_same_and_gradients(conv, *inputs)
    assert conv(*inputs).is_contiguous(memory_format=layout)


@pytest.mark.usefixtures("no_concatenation")
@pytest.mark.parametrize("band_bytes", [2**22, 1])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (3, 5), (3, 36)])
def test_several_maps_and_taps_far_apart(
    kernel: int, dilation: int, band_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampled_conv, "BAND_BYTES", band_bytes)
    torch.manual_seed(0)
    padding = dilation * (kernel // 2)
    conv = ConcatConv2d(9, 4, kernel, padding=padding, dilation=dilation, bias=False).double()
    sizes = [(2, 31, 26), (4, 16, 13), (2, 8, 7), (1, 4, 4)]
    inputs = [torch.randn(2, *size, dtype=torch.float64) for size in sizes]
    assert_same_and_gradients(conv, *inputs)


@pytest.mark.usefixtures("no_concatenation")
@pytest.mark.parametrize("frozen", ["sharp", "coarse", "weight"])
def test_some_want_no_gradient(conv: ConcatConv2d, frozen: str) -> None:
    sharp, coarse = (x.requires_grad_() for x in maps((3, 4), (12, 16)))
    leaves = {"sharp": sharp, "coarse": coarse, "weight": conv.weight}
    leaves.pop(frozen).requires_grad_(False)
    got = torch.autograd.grad(conv(sharp, coarse).square().sum(), leaves.values())
    wanted = torch.autograd.grad(plain(conv, sharp, coarse).square().sum(), leaves.values())
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("no_concatenation")
def test_an_empty_batch(conv: ConcatConv2d) -> None:
    sharp, coarse = (x[:0] for x in maps((3, 4), (12, 16)))
    result = conv(sharp, coarse)
    assert result.shape == (0, 6, 12, 16)
    result.sum().backward()
    assert not conv.weight.grad.any()


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
def test_training_after_inference(conv: ConcatConv2d) -> None:
    """What is kept from an inference, as its tensors, serves."""
    upsampled_conv._bands.cache_clear()
    upsampled_conv._upsampling.cache_clear()
    inputs = maps((3, 4), (12, 16))
    with torch.inference_mode():
        conv(*inputs), upsampled_conv.mean_of_upsampled(inputs[1], (12, 16))
    assert_same_and_gradients(conv, *inputs)
    upsampled_conv.mean_of_upsampled(inputs[1], (12, 16)).sum().backward()
    assert inputs[1].grad.sum().item() == pytest.approx(2 * 5)


@pytest.mark.usefixtures("no_concatenation")
@pytest.mark.parametrize(("small", "large"), [((8, 8), (32, 32)), ((9, 8), (33, 31))])
def test_bf16_rounds_about_as_much_as_the_plain_way(
    conv: ConcatConv2d, small: tuple[int, int], large: tuple[int, int]
) -> None:
    inputs = [x.requires_grad_() for x in maps(small, large)]
    exact = plain(conv, *inputs)
    upstream = torch.randn_like(exact)
    exact = [exact, *torch.autograd.grad(exact, [*inputs, conv.weight], upstream)]
    conv, inputs = conv.float(), [x.detach().float().requires_grad_() for x in inputs]
    errors = {}
    for way in (conv, lambda *maps: plain(conv, *maps)):
        with torch.autocast("cpu", torch.bfloat16):
            result = way(*inputs)
        assert result.dtype == torch.bfloat16
        leaves = [*inputs, conv.weight]
        got = [result, *torch.autograd.grad(result, leaves, upstream.to(torch.bfloat16))]
        errors[way] = [
            (one.double() - other).square().mean().sqrt()
            for one, other in zip(got, exact, strict=True)
        ]
    ours, theirs = errors.values()
    assert all(one < 2 * other for one, other in zip(ours, theirs, strict=True)), (ours, theirs)


def test_one_map_is_convolved_as_ever(conv: ConcatConv2d) -> None:
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_maps_that_are_barely_larger_are_joined() -> None:
    conv = ConcatConv2d(8, 6, 3, padding=1).double()
    sharp, coarse = maps((8, 9), (12, 12))
    large = F.interpolate(coarse, size=(12, 12), mode="bilinear", align_corners=False)
    assert torch.equal(conv(sharp, coarse), conv(torch.cat([sharp, large], 1)))


def test_mean_of_upsampled() -> None:
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    wanted = F.interpolate(x, (17, 29), mode="bilinear").mean((2, 3), keepdim=True)
    torch.testing.assert_close(upsampled_conv.mean_of_upsampled(x, (17, 29)), wanted)


def same_size(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """In place of `upsample`: nothing must be upsampled."""
    assert x.shape[2:] == size
    return x


@pytest.mark.parametrize(
    "name",
    ["deeplabv3plus_mobilenet", "deeplabv3plus_hrnetv2_18_small", "deeplabv3_hrnetv2_18_small"],
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(65, 97), (64, 32)])
def test_a_whole_network(
    size: tuple[int, int], training: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = network.create_model(name, num_classes=5, pretrained="none")
    model.double().train(training)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    images = torch.randn(2, 3, *size, dtype=torch.float64)

    def scores_and_gradients() -> list[torch.Tensor]:
        scores = model.low_res_logits(images)
        return [scores, *torch.autograd.grad(scores.square().sum(), model.parameters())]

    with monkeypatch.context() as patch:
        patch.setattr(upsampled_conv, "upsample", same_size)
        ours = scores_and_gradients()
    monkeypatch.setattr(upsampled_conv, "works_on_coarse", lambda x: False)
    theirs = scores_and_gradients()
    assert theirs[0].is_contiguous() == ours[0].is_contiguous()
    largest = max(x.abs().max().item() for x in theirs)  # some gradients are 0, but for rounding
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12 * largest)


@pytest.mark.parametrize("separable_conv", [True, False])
def test_where_maps_are_joined_it_is_done_once(
    separable_conv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where five branches would otherwise join them five times."""
    name = "deeplabv3_hrnetv2_18_small"
    model = network.create_model(name, separable_conv=separable_conv).eval()
    joined, concat_maps = [], upsampled_conv.concat_maps

    def counted(*maps: torch.Tensor) -> torch.Tensor:
        joined.append(len(maps))
        return concat_maps(*maps)

    if not separable_conv:
        monkeypatch.setattr(upsampled_conv, "works_on_coarse", lambda x: False)
    for module in (upsampled_conv, network.utils, network._deeplab):
        monkeypatch.setattr(module, "concat_maps", counted)
    with torch.no_grad():
        model.low_res_logits(torch.randn(1, 3, 64, 64))
    assert [number for number in joined if number > 1] == [4]


def test_a_head_of_somebody_else_gets_plain_tensors() -> None:
    model = network.create_model("deeplabv3_hrnetv2_18_small").eval()

    class Head(torch.nn.Module):
        def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
            return features["out"].mean(1, keepdim=True)

    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        got = SimpleSegmentationModel(model.backbone, Head()).low_res_logits(images)
        assert torch.equal(got, model.backbone(images)["out"].mean(1, keepdim=True))
        # And the other way round: our head takes plain tensors.
        wanted = model.low_res_logits(images)
        got = SimpleSegmentationModel(model.backbone, model.classifier).low_res_logits(images)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*jit.trace.*is deprecated:FutureWarning")
def test_tracing_sees_the_plain_operations() -> None:
    model = network.create_model("deeplabv3plus_resnet18", num_classes=3, pretrained="none").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(model, images)
        other = torch.randn(1, 3, 96, 64)
        torch.testing.assert_close(traced(other), model(other), rtol=1e-4, atol=1e-4)
