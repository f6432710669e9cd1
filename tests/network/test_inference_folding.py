"""BatchNorm folded into convolutions: the same function, with fewer layers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network import create_model
from network.backbone import BACKBONES
from network.inference import folded

# One or two variants a family, and the BatchNorm layers of backbone and head, counted by hand: the
# head of DeepLabV3+ has 8 (projection, five branches and their 1x1, classifier).
COUNTS = {
    "resnet18": 20 + 8,  # stem, 8 blocks of 2, 3 shortcuts
    "mobilenet": 51 + 8,  # stem, 2 in the first block, 3 in each of 16
    "hrnetv2_18_small": 71 + 8,
    "res2net50d": 87 + 8,
    "vovnetv2_19_slim_dw": 22 + 8,
    "hgnet_tiny": 36 + 8,  # stem, 6 in each of 5 blocks, 3 downsamplings
    "hgnetv2_b0": 42 + 8,
    "xception": 40 + 8,
    "xception41": 84 + 8,
}


def num_batch_norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def check_model(
    name: str, randomize: Callable, images: Callable, assert_same: Callable, **build_args: object
) -> nn.Module:
    model = create_model(f"deeplabv3plus_{name}", num_classes=5, pretrained="none", **build_args)
    randomize(model).eval()
    batch = images(49, 33, count=1)
    with torch.no_grad():
        expected = model(batch)
        copy = folded(model)
        assert_same(copy(batch), expected)
        assert torch.equal(model(batch), expected)
    assert num_batch_norms(copy) == 0
    return model


@pytest.mark.parametrize("name", COUNTS)
def test_a_folded_network_computes_the_same(name, randomize, images, assert_same) -> None:
    model = check_model(name, randomize, images, assert_same)
    assert num_batch_norms(model) == COUNTS[name]


def test_separable_heads_are_folded(randomize, images, assert_same) -> None:
    check_model("mobilenet", randomize, images, assert_same, separable_conv=True)


@pytest.mark.slow  # builds and runs 41 networks in float64
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in COUNTS])
def test_every_network_is_folded_whole(name, randomize, images, assert_same) -> None:
    check_model(name, randomize, images, assert_same)


@pytest.mark.slow  # builds a network of 72 million parameters, and times it
def test_folding_is_quick() -> None:
    model = create_model("deeplabv3plus_hrnetv2_48", pretrained="none")
    assert num_batch_norms(model) == 313  # as others count in the authors' network and this head
    folded(model)
    begin = time.process_time()
    folded(model)
    assert time.process_time() - begin < 1


def test_the_original_stays_as_it_was() -> None:
    model = create_model("deeplabv3_mobilenet", pretrained="none").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        copy = folded(model)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in [*model.modules(), *copy.modules()])
    assert not copy.training and not any(weight.requires_grad for weight in copy.parameters())
    own = {tensor.data_ptr() for tensor in copy.parameters()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in model.parameters())
    weights = [weight for weight in copy.parameters() if weight.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert copy.name == model.name


class Tangled(nn.Module):
    """Convolutions and BatchNorm in ways that can't be folded, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first_bn = nn.BatchNorm2d(3)  # reads the image
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)  # the one, with a bias
        self.read_twice, self.bn_twice = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.used_twice, self.bn_used = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.far, self.bn_far = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(self.first_bn(x))))
        y = self.read_twice(x)
        x = self.bn_twice(y) + y
        x = self.used_twice(self.bn_used(self.used_twice(x)))
        return self.bn_far(F.relu(self.far(x)))


def test_what_others_read_too_is_not_folded(randomize, images, assert_same) -> None:
    model = randomize(Tangled()).eval()
    copy = folded(model)
    kept = {name for name, layer in copy.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert kept == {"first_bn", "bn_twice", "bn_used", "bn_far"}
    with torch.no_grad():
        assert_same(copy(images(20, 30)), model(images(20, 30)))


def test_weights_in_bfloat16_are_those_autocast_makes() -> None:
    torch.manual_seed(0)
    model = create_model("deeplabv3plus_mobilenet", num_classes=5, pretrained="none").eval()
    batch = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = folded(model)(batch)
        copy = folded(model, conv_dtype=torch.bfloat16)
        assert copy.classifier.classifier[0].weight.dtype == torch.bfloat16
        assert torch.equal(copy(batch), expected)
