"""Res2Net against timm's, stage by stage, and dilated against strided."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.export import Dim, export

from network.backbone import create_backbone
from network.backbone.res2net import DilatedAvgPool2d, ShortcutPool

# Stages by our names and by timm's, which differ in one.
STAGES = {name: name for name in ("conv1", "bn1", "relu", "maxpool")}
STAGES |= {f"layer{number}": f"layer{number}" for number in (1, 2, 3, 4)}
STAGES["relu"] = "act1"
FAST = ["res2net50_48w_2s", "res2net50d"]
SLOW = [  # networks that differ from those in numbers only, and take seconds in float64
    "res2net50_14w_8s",
    "res2net50_26w_4s",
    "res2net50_26w_6s",
    "res2net50_26w_8s",
    "res2net101_26w_4s",
    "res2next50",
    "res2net101d",
]
NAMES = [*FAST, *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]]
# Widths of the parts in the four stages, and of all together: the paper's and the authors' code.
WIDTHS = {
    "res2net50_48w_2s": ((48, 96, 192, 384), (96, 192, 384, 768)),
    "res2net50_14w_8s": ((14, 28, 56, 112), (112, 224, 448, 896)),
    "res2net50_26w_4s": ((26, 52, 104, 208), (104, 208, 416, 832)),
    "res2net50_26w_6s": ((26, 52, 104, 208), (156, 312, 624, 1248)),
    "res2net50_26w_8s": ((26, 52, 104, 208), (208, 416, 832, 1664)),
    "res2net101_26w_4s": ((26, 52, 104, 208), (104, 208, 416, 832)),
    "res2next50": ((32, 64, 128, 256), (128, 256, 512, 1024)),
    "res2net50d": ((26, 52, 104, 208), (104, 208, 416, 832)),
    "res2net101d": ((26, 52, 104, 208), (104, 208, 416, 832)),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_equals_timm(name, randomize, images, assert_same):
    ours = randomize(create_backbone(name, output_stride=32))
    theirs = timm.create_model(name).double()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) == {"fc.weight", "fc.bias"}
    assert [child for child, _ in ours.named_children()] == list(STAGES)
    for training, size in itertools.product((False, True), ((48, 64), (49, 65))):
        ours.train(training), theirs.train(training)
        x = y = images(*size)
        with torch.no_grad():
            for stage, timm_stage in STAGES.items():
                # Copies, since some layers work in place.
                x, y = getattr(ours, stage)(x.clone()), getattr(theirs, timm_stage)(y.clone())
                assert_same(x, y)
    for key, value in ours.state_dict().items():  # running statistics included
        assert torch.allclose(value, theirs.state_dict()[key], rtol=1e-9, atol=1e-12), key


@pytest.mark.parametrize("name", WIDTHS)
def test_widths(name):
    with torch.device("meta"):
        backbone = create_backbone(name)
    for number in range(4):
        for block in getattr(backbone, f"layer{number + 1}"):
            assert {conv.out_channels for conv in block.convs} == {WIDTHS[name][0][number]}
            assert block.conv1.out_channels == WIDTHS[name][1][number]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "res2net50d" else pytest.mark.slow) for n in WIDTHS]
)
def test_dilated_is_strided_on_the_sub_grid(name, randomize, images, assert_same):
    inputs = [images(*size, count=1) for size in ((64, 96), (65, 97), (66, 79))]
    strided = randomize(create_backbone(name, output_stride=32)).eval()
    with torch.no_grad():
        expected = [strided(x) for x in inputs]
        for step in (2, 4):
            dense = create_backbone(name, output_stride=32 // step).double().eval()
            dense.load_state_dict(strided.state_dict())
            for x, y in zip(inputs, expected, strict=True):
                assert_same(dense(x)[:, :, ::step, ::step], y)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_dilated_average_is_what_it_says(dilation, images, assert_same):
    x = images(9, 12)
    # Every dilation-th pixel of the padded map, by itself, is averaged without dilation.
    expected = torch.zeros_like(x)
    padded = F.pad(x, (dilation,) * 4)
    for row in range(9):
        for column in range(12):
            window = padded[:, :, row : row + 3 * dilation : dilation]
            window = window[:, :, :, column : column + 3 * dilation : dilation]
            expected[:, :, row, column] = window.mean((2, 3))
    assert_same(DilatedAvgPool2d(3, dilation=dilation, padding=dilation)(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 11), (9, 9), (1, 2)])
def test_shortcut_pool_is_pytorchs_ceil_mode(size, images, assert_same):
    x = images(*size)
    expected = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    assert_same(ShortcutPool(stride=2, dilation=1)(x), expected)


def test_shortcut_pool_dilated_by_hand():
    x = torch.arange(1.0, 5.0).reshape(1, 1, 1, 4)
    # (1 + 3) / 2, (2 + 4) / 2, then 3 and 4 alone: their partners are outside.
    expected = torch.tensor([[[[2.0, 3.0, 3.0, 4.0]]]])
    assert torch.equal(ShortcutPool(stride=1, dilation=2)(x), expected)


@pytest.mark.parametrize("output_stride", [32, 8])
def test_bfloat16_autocast(output_stride, images):
    backbone = create_backbone("res2net50d", output_stride=output_stride)
    with torch.autocast("cpu", torch.bfloat16):
        out = backbone(images(65, 70).float())
    assert out.dtype == torch.bfloat16 and out.isfinite().all()
    out.float().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


@pytest.mark.xfail(
    torch.__version__ < torch.torch_version.TorchVersion("2.14"),
    reason="torch.export adds guards on the parity of sizes; seen with 2.11, not with 2.14",
)
@pytest.mark.parametrize("output_stride", [pytest.param(32, marks=pytest.mark.slow), 8])
def test_export_with_any_size(output_stride, images):
    backbone = create_backbone("res2net50d", output_stride=output_stride).eval()
    sizes = {2: Dim("height", min=33, max=2048), 3: Dim("width", min=33, max=2048)}
    with torch.no_grad():
        example = images(64, 96, count=1).float()
        program = export(backbone, (example,), dynamic_shapes=(sizes,)).module()
        for size in ((33, 33), (77, 65)):
            x = images(*size, count=1).float()
            assert torch.allclose(program(x), backbone(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # traces a network twice
@pytest.mark.parametrize("output_stride", [32, 8])
def test_compiles_to_one_graph(output_stride, images):
    backbone = create_backbone("res2net50d", output_stride=output_stride).eval()
    x = images(65, 97, count=1).float()
    with torch.no_grad():
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), backbone(x), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["res2net50_26w_4s", "res2net50d"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_channels_last_in_dilated_pools(name, output_stride):
    backbone = create_backbone(name, output_stride=output_stride).eval()
    backbone = backbone.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 65, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for child_name, child in backbone.named_children():
            x = child(x)
            assert x.is_contiguous(memory_format=torch.channels_last), child_name
