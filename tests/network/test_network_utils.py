from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.transforms import functional as transforms

from network import Normalize
from network.utils import IntermediateLayerGetter

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def chain() -> nn.Sequential:
    layers = nn.Sequential()
    for name, size in (("a", 2), ("b", 3), ("c", 4), ("d", 5)):
        layers.add_module(name, nn.Conv2d(size - 1, size, 1))
    return layers


def test_getter_returns_named_outputs_and_cuts_after_the_last():
    model, x = chain(), torch.randn(1, 1, 2, 2)
    getter = IntermediateLayerGetter(model, {"c": "out", "a": "low_level"})
    features = getter(x)
    assert set(features) == {"low_level", "out"}
    assert torch.equal(features["low_level"], model.a(x))
    assert torch.equal(features["out"], model.c(model.b(model.a(x))))
    assert list(getter) == ["a", "b", "c"]
    assert set(getter.state_dict()) == {f"{n}.{k}" for n in "abc" for k in ("weight", "bias")}


def test_getter_names_the_child_that_is_missing():
    with pytest.raises(ValueError, match="no child 'e' in the model; it has a, b, c, d"):
        IntermediateLayerGetter(chain(), {"a": "low_level", "e": "out"})


def test_normalize_equals_torchvision():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = transforms.normalize(images.double() / 255, MEAN, STD).float()
    normalize = Normalize(MEAN, STD)
    for given in (images, images.float() / 255, images.double() / 255):
        result = normalize(given)
        assert result.dtype == torch.float32
        assert torch.allclose(result, expected, atol=1e-6)
    assert normalize(images[0]).shape == (3, 5, 7)
    assert normalize.state_dict() == {}


def test_normalize_does_not_change_its_input():
    images = torch.rand(1, 3, 4, 4)
    before = images.clone()
    Normalize(MEAN, STD)(images)
    assert torch.equal(images, before)


def test_normalize_refuses_other_integers():
    with pytest.raises(ValueError, match="torch.int64; they must be uint8 or floating point"):
        Normalize(MEAN, STD)(torch.zeros(1, 3, 2, 2, dtype=torch.int64))
