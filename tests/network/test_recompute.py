"""Recomputed activations: the same gradients and statistics, bit for bit, and fewer kept maps."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from network.backbone import BACKBONES, create_backbone
from network.recompute import recomputed
from network.utils import IntermediateLayerGetter

SMALL = {
    "resnet18": {"num_blocks": (1, 2, 1, 1)},
    "mobilenet": {},
    "hrnetv2_18_small": {},
    "res2net50d": {"num_blocks": (1, 2, 1, 1), "base_width": 4},
    "vovnetv2_19_slim_dw": {},
    "hgnet_tiny": {"stages": ((8, 12, 1), (8, 16, 1), (12, 20, 2), (16, 24, 1))},
    "hgnetv2_b0": {},
    "xception": {"num_middle": 1, "entry": ((12, 2), (16, 2), (24, 2))},
    "xception41": {"num_middle": 1, "entry": ((12, 2), (16, 2), (24, 2))},
}


def pair(name: str = "resnet18") -> tuple[IntermediateLayerGetter, IntermediateLayerGetter]:
    """A backbone of a family with fewer layers, cut for a model, and a copy that recomputes."""
    torch.manual_seed(0)
    network, variant = BACKBONES[name]
    backbone = network(replace(variant, **SMALL[name]), output_stride=network.output_strides[0])
    features = {"low_level": backbone.low_level, "aux": backbone.aux, "out": backbone.out}
    plain = IntermediateLayerGetter(backbone, {f.name: key for key, f in features.items() if f})
    other = copy.deepcopy(plain)
    other.recomputes = True
    return plain, other


def calls_of(backbone: nn.Module) -> Counter[nn.Module]:
    """A count that each call of a layer of the backbone will raise."""
    calls: Counter[nn.Module] = Counter()
    for layer in backbone.modules():
        if not isinstance(layer, nn.ReLU):  # of which a block has one, and calls it again and again
            layer.register_forward_pre_hook(lambda layer, inputs: calls.update([layer]))
    return calls


def step(backbone: nn.Module, *, batches: int = 1) -> Tensor:
    """Add up the gradients of some random batches; returns the last loss."""
    torch.manual_seed(1)
    for _ in range(batches):
        features = backbone(torch.randn(2, 3, 35, 44))
        loss = sum(y.float().square().mean() for y in features.values())
        if loss.requires_grad:
            loss.backward()
    return loss


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    """Gradients and buffers, bit for bit."""
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("name", SMALL)
def test_gradients_and_statistics_are_the_same(name: str) -> None:
    plain, other = pair(name)
    calls = calls_of(other)
    step(plain), step(other)
    assert_equal(other, plain)
    layers = [layer for part in recomputed(other.values()) for layer in part.args[0]]
    blocks = [layer for layer in layers if any(True for _ in layer.children())]
    assert blocks and all(calls[block] == 2 for block in blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["accumulated", "frozen BatchNorm", "cumulative"])
def test_in_every_kind_of_training(case: str, dtype: torch.dtype) -> None:
    plain, other = pair()
    for backbone in (plain, other):
        for layer in backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None if case == "cumulative" else 0.01
                layer.train(case != "frozen BatchNorm")
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            step(backbone, batches=2 if case == "accumulated" else 1)
    assert_equal(other, plain)
    counted = plain["bn1"].num_batches_tracked.item()
    assert counted == {"accumulated": 2, "frozen BatchNorm": 0}.get(case, 1)
    assert other["bn1"].momentum == plain["bn1"].momentum


class Block(nn.Module):
    """A convolution with dropout before and after it."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, 0.3, training=self.training)
        return nn.functional.dropout(self.conv(x).relu(), 0.5, training=self.training)


def test_dropout_draws_the_same_again() -> None:
    children = OrderedDict(a=Block(3), b=nn.Sequential(Block(4), nn.Dropout(0.2)))
    plain = IntermediateLayerGetter(nn.Sequential(children), {"a": "low_level", "b": "out"})
    other, draws = copy.deepcopy(plain), []
    other.recomputes = True
    calls = calls_of(other)
    for getter in (plain, other):
        torch.manual_seed(5)
        features = getter(torch.randn(1, 3, 16, 16))
        draws.append(torch.rand(1))
        sum(y.square().mean() for y in features.values()).backward()
        draws.append(torch.rand(1))
    assert_equal(other, plain)
    assert draws[:2] == draws[2:]  # nothing else draws other numbers than without
    assert calls[other.a] == calls[other.b[0]] == 2


def test_a_frozen_backbone_and_evaluation_run_once() -> None:
    for frozen in (True, False):
        plain, other = (backbone.requires_grad_(not frozen).eval() for backbone in pair())
        calls = calls_of(other)
        assert torch.equal(step(other), step(plain))
        assert_equal(other, plain)
        assert set(calls.values()) == {1}


def test_a_part_is_a_block_with_the_single_layers_before_it() -> None:
    backbone = create_backbone("resnet18")
    parts = recomputed(backbone)
    stem = [backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool]
    blocks = [block for stage in list(backbone)[4:] for block in stage]
    assert [part.args[0] for part in parts] == [[*stem, blocks[0]], *([b] for b in blocks[1:])]
    tail = [nn.Conv2d(1, 1, 1), nn.ReLU()]
    assert [part.args[0] for part in recomputed(tail)] == [tail]
    assert recomputed([]) == []


def test_the_forward_pass_keeps_little() -> None:
    sizes: dict[int, int] = {}  # of what autograd keeps, by place

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    kept = []
    for backbone in pair():
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = backbone(torch.randn(2, 3, 129, 129))
        kept.append(sum(sizes.values()))
        del features
    assert kept[1] < 0.2 * kept[0]


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_several_processes(process_group: None) -> None:
    plain, other = pair()
    for backbone in (plain, other):
        wrapped = DistributedDataParallel(backbone)
        with wrapped.no_sync():
            step(wrapped)
        step(wrapped)
    assert_equal(other, plain)


@pytest.mark.slow  # compiling takes seconds
def test_compiled() -> None:
    plain, other = pair()
    step(plain), step(torch.compile(other, backend="aot_eager", fullgraph=True))
    for (name, ours), theirs in zip(other.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5), name
    for (name, ours), theirs in zip(other.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6), name
    torch.compiler.reset()
