"""The Backbone contract, over the registry."""

from __future__ import annotations

import functools
import itertools
import warnings

import pytest
import torch
from torch import nn

from network.backbone import BACKBONES, create_backbone, resolve_output_stride
from network.backbone.base import Backbone

# Trainable parameters up to the last stage, and state-dict entries: of timm's and torchvision's.
COUNTS = {
    "resnet18": (11_176_512, 120),
    "resnet34": (21_284_672, 216),
    "resnet50": (23_508_032, 318),
    "resnet101": (42_500_160, 624),
    "resnet152": (58_143_808, 930),
    "resnext50_32x4d": (22_979_904, 318),
    "resnext101_32x8d": (86_742_336, 624),
    "wide_resnet50_2": (66_834_240, 318),
    "wide_resnet101_2": (124_837_696, 624),
    "mobilenet": (1_811_712, 306),
    "hrnetv2_18_small": (1_477_920, 426),
    "hrnetv2_18_small_v2": (3_860_720, 864),
    "hrnetv2_18": (9_562_260, 1830),
    "hrnetv2_30": (25_812_276, 1830),
    "hrnetv2_32": (29_305_536, 1830),
    "hrnetv2_40": (45_521_216, 1830),
    "hrnetv2_44": (54_974_640, 1830),
    "hrnetv2_48": (65_325_120, 1830),
    "hrnetv2_64": (115_697_600, 1830),
    "res2net50_48w_2s": (23_238_304, 318),
    "res2net50_14w_8s": (23_010_816, 894),
    "res2net50_26w_4s": (23_650_120, 510),
    "res2net50_26w_6s": (35_002_448, 702),
    "res2net50_26w_8s": (46_354_776, 894),
    "res2net101_26w_4s": (43_157_688, 1020),
    "res2next50": (22_622_464, 510),
    "res2net50d": (23_669_352, 522),
    "res2net101d": (43_176_920, 1032),
    "vovnetv2_19_slim_dw": (1_384_752, 154),
    "vovnetv2_19_dw": (5_518_080, 160),
    "vovnetv2_19_slim": (2_653_136, 122),
    "vovnetv2_19": (10_180_416, 122),
    "vovnetv2_39": (25_184_128, 246),
    "vovnetv2_57": (41_454_912, 360),
    "vovnetv2_99": (69_523_520, 626),
    "vovnetv2_39b": (23_543_936, 242),
    "vovnetv2_57b": (37_583_936, 350),
    "vovnetv2_99b": (62_174_272, 602),
    "hgnet_tiny": (11_114_000, 226),
    "hgnet_small": (20_214_720, 256),
    "hgnet_base": (66_907_744, 436),
    "hgnetv2_b0": (1_850_396, 312),
    "hgnetv2_b1": (2_197_004, 312),
    "hgnetv2_b2": (6_026_626, 442),
    "hgnetv2_b3": (10_048_910, 514),
    "hgnetv2_b4": (13_553_376, 480),
    "hgnetv2_b5": (33_325_760, 780),
    "hgnetv2_b6": (69_013_472, 1044),
    "xception": (20_806_952, 274),
    "xception41": (24_920_560, 504),
    "xception65": (37_867_312, 792),
    "xception71": (40_289_736, 876),
}
ONE_PER_FAMILY = [
    "resnet18",
    "resnet50",
    "mobilenet",
    "hrnetv2_18_small",
    "res2net50_48w_2s",
    "vovnetv2_19_slim_dw",
    "hgnet_tiny",
    "hgnetv2_b0",
    "xception",
    "xception41",
]
# Their stems do not pad: of 97 pixels, 48 and then 46 stay, as if the image had 92.
UNPADDED_STEM = {"xception"}
# Behind weights that were trained with other numbers than ImageNet's: both are (0.5, 0.5, 0.5).
HALF_MEAN_AND_STD = {"vovnetv2_57b", "xception", "xception41", "xception65", "xception71"}


def map_side(name: str, side: int, reduction: int) -> int:
    """A feature map's height or width for an image's."""
    if name in UNPADDED_STEM:
        side = 2 * ((side - 3) // 2 - 1)
    if name.startswith("vovnetv2"):  # from stride 4 on, its pools round down
        return -(-side // 4) // (reduction // 4)
    return -(-side // reduction)


@functools.cache
def on_meta(name: str, output_stride: int) -> Backbone:
    """A backbone without memory, to ask for shapes and numbers."""
    with torch.device("meta"):
        return create_backbone(name, output_stride=output_stride).eval()


def cases() -> list[tuple[str, int]]:
    return [(n, s) for n, entry in BACKBONES.items() for s in entry.network.output_strides]


def test_the_registry_is_complete():
    assert set(BACKBONES) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_and_key_counts(name):
    backbone = on_meta(name, resolve_output_stride(name, None))
    params = sum(parameter.numel() for parameter in backbone.parameters())
    assert (params, len(backbone.state_dict())) == COUNTS[name]


@pytest.mark.parametrize(("name", "output_stride"), cases())
def test_shapes_are_what_the_backbone_states(name, output_stride):
    backbone, shapes = on_meta(name, output_stride), {}
    x = torch.empty(1, 3, 97, 65, device="meta")
    with torch.no_grad():
        for child_name, child in backbone.named_children():
            x = child(x)
            shapes[child_name] = tuple((x if isinstance(x, torch.Tensor) else x[0]).shape)
    assert backbone.out.reduction == output_stride and backbone.low_level.reduction == 4
    features = [backbone.low_level, backbone.out] + [backbone.aux] * (backbone.aux is not None)
    for info in features:
        height, width = (map_side(name, side, info.reduction) for side in (97, 65))
        assert shapes[info.name] == (1, info.channels, height, width)
    assert x.shape == shapes[backbone.out.name]  # the last child gives "out"


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_children_in_order_are_the_forward(name):
    backbone = create_backbone(name).eval()
    x = y = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        for child in backbone.children():
            y = child(y)
        assert torch.equal(backbone(x), y)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_any_size_from_33_up_in_both_modes(name):
    for output_stride in BACKBONES[name].network.output_strides:
        backbone = create_backbone(name, output_stride=output_stride)
        for size, training in itertools.product([(33, 33), (34, 47), (129, 65)], (False, True)):
            with torch.no_grad():
                out = backbone.train(training)(torch.randn(2, 3, *size))
            assert out.isfinite().all()
            assert out.shape[-2:] == tuple(map_side(name, side, output_stride) for side in size)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet", "hgnetv2_b0", "xception"])
def test_dilated_is_strided_on_the_sub_grid(name, randomize, images, assert_same):
    inputs = [images(*size, count=1) for size in ((96, 96), (97, 129), (90, 107))]
    strided = randomize(create_backbone(name, output_stride=32)).eval()
    with torch.no_grad():
        expected = [strided(x) for x in inputs]
        for step in (2, 4):
            dense = create_backbone(name, output_stride=32 // step).double().eval()
            dense.load_state_dict(strided.state_dict())
            for x, y in zip(inputs, expected, strict=True):
                assert_same(dense(x)[:, :, ::step, ::step], y)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_channels_last_stays_at_every_stage(name):
    backbone = create_backbone(name).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for child_name, child in backbone.named_children():
            x = child(x)
            for map_ in x if isinstance(x, list) else [x]:
                assert map_.is_contiguous(memory_format=torch.channels_last), child_name


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_initialisation(name):
    """He et al. 2015, fan out: the deviation is sqrt(2 / (channels out * kernel area))."""
    torch.manual_seed(0)
    for layer in create_backbone(name).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            # Fan out counts a group's input channels too: weight[0].numel() / in * out.
            fan_out = layer.weight.shape[0] * layer.kernel_size[0] * layer.kernel_size[1]
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
            assert layer.eps == (1e-3 if name == "xception41" else 1e-5)
            assert layer.momentum == 0.1


@pytest.mark.parametrize("name", COUNTS)
def test_mean_and_std_are_imagenets_but_where_the_weights_differ(name):
    variant = BACKBONES[name].variant
    half = name in HALF_MEAN_AND_STD
    assert variant.mean == ((0.5, 0.5, 0.5) if half else (0.485, 0.456, 0.406))
    assert variant.std == ((0.5, 0.5, 0.5) if half else (0.229, 0.224, 0.225))


def test_impossible_stride_names_the_possible():
    with pytest.raises(ValueError, match="output stride 4 is not possible for resnet18; use 8, 16"):
        create_backbone("resnet18", output_stride=4)


def test_hrnet_is_4_whatever_is_asked_and_says_so():
    with pytest.warns(UserWarning, match="always has output stride 4: 16 has no effect") as caught:
        backbone = create_backbone("hrnetv2_18_small", output_stride=16)
    assert backbone.out.reduction == 4 and len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_backbone("hrnetv2_18_small")
        create_backbone("hrnetv2_18_small", output_stride=4)


def test_default_strides():
    expected = {name: 4 if name.startswith("hrnet") else 16 for name in COUNTS}
    assert {name: resolve_output_stride(name, None) for name in BACKBONES} == expected


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown backbone 'resnet51'; there are resnet18, "):
        create_backbone("resnet51")
    with pytest.raises(ValueError, match="resnet18 has no build argument 'fuse_mode'; it takes no"):
        create_backbone("resnet18", backbone_args={"fuse_mode": "nearest"})
    with pytest.raises(ValueError, match="no build argument 'pad'; it takes legacy_padding"):
        create_backbone("mobilenet", backbone_args={"pad": 1})
    with pytest.raises(ValueError, match="legacy_padding is 'yes'; it must be True or False"):
        create_backbone("mobilenet", backbone_args={"legacy_padding": "yes"})


@pytest.mark.parametrize(
    "name",
    [
        # Tracing takes seconds; test_models.py traces a whole model of the other kinds of block.
        pytest.param(name, marks=() if name == "vovnetv2_19_slim_dw" else pytest.mark.slow)
        for name in ONE_PER_FAMILY
    ],
)
def test_compiles_to_one_graph(name):
    backbone = create_backbone(name).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x), backbone(x), atol=1e-5)
    torch.compiler.reset()
