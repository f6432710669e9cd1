"""The table of costs: fresh, and what others measure."""

from __future__ import annotations

import json

import pytest
import torch

import network
from network import summary
from network.backbone import BACKBONES

# GMACs of each backbone at 512x512 by output stride, measured on timm's, the authors' and
# torchvision's networks. Not here: xception at 16 and 8, where the predecessor's shrinks the map,
# and xception71 at 8, where timm's leaves out a shortcut whose weights its files hold.
GMACS = {
    "resnet18": {8: 48.13, 16: 15.917, 32: 9.475},
    "resnet34": {8: 90.408, 16: 29.205, 32: 19.139},
    "resnet50": {8: 99.669, 16: 32.426, 32: 21.353},
    "resnet101": {8: 177.247, 16: 51.821, 32: 40.748},
    "resnet152": {8: 241.135, 16: 71.215, 32: 60.142},
    "resnext50_32x4d": {8: 97.715, 16: 32.435, 32: 22.091},
    "resnext101_32x8d": {8: 361.763, 16: 106.179, 32: 85.744},
    "wide_resnet50_2": {8: 282.608, 16: 90.945, 32: 59.538},
    "wide_resnet101_2": {8: 519.905, 16: 150.269, 32: 118.862},
    "mobilenet": {8: 7.67, 16: 2.38, 32: 1.46},
    "hrnetv2_18_small": {4: 3.155},
    "hrnetv2_18_small_v2": {4: 8.329},
    "hrnetv2_18": {4: 17.147},
    "hrnetv2_30": {4: 36.99},
    "hrnetv2_32": {4: 41.229},
    "hrnetv2_40": {4: 60.846},
    "hrnetv2_44": {4: 72.251},
    "hrnetv2_48": {4: 84.722},
    "hrnetv2_64": {4: 145.249},
    "res2net50_48w_2s": {8: 98.692, 16: 32.43, 32: 21.722},
    "res2net50_14w_8s": {8: 97.784, 16: 32.3, 32: 21.822},
    "res2net50_26w_4s": {8: 100.451, 16: 33.065, 32: 22.22},
    "res2net50_26w_6s": {8: 148.535, 16: 48.791, 32: 32.88},
    "res2net50_26w_8s": {8: 196.618, 16: 64.517, 32: 43.54},
    "res2net101_26w_4s": {8: 180.11, 16: 52.98, 32: 42.135},
    "res2next50": {8: 96.224, 16: 31.963, 32: 21.789},
    "res2net50d": {8: 101.703, 16: 34.317, 32: 23.472},
    "res2net101d": {8: 181.362, 16: 54.232, 32: 43.387},
    "vovnetv2_19_slim_dw": {8: 4.622, 16: 2.422, 32: 2.075},
    "vovnetv2_19_dw": {8: 17.102, 16: 8.338, 32: 6.953},
    "vovnetv2_19_slim": {8: 14.373, 16: 9.527, 32: 8.774},
    "vovnetv2_19": {8: 43.921, 16: 24.537, 32: 21.521},
    "vovnetv2_39": {8: 103.043, 16: 45.665, 32: 36.945},
    "vovnetv2_57": {8: 160.505, 16: 60.031, 32: 46.652},
    "vovnetv2_99": {8: 261.135, 16: 99.508, 32: 86.129},
    "vovnetv2_39b": {8: 103.043, 16: 45.665, 32: 36.945},
    "vovnetv2_57b": {8: 160.505, 16: 60.031, 32: 46.652},
    "vovnetv2_99b": {8: 261.135, 16: 99.508, 32: 86.129},
    "hgnet_tiny": {8: 50.445, 16: 26.215, 32: 23.645},
    "hgnet_small": {8: 92.825, 16: 49.01, 32: 44.421},
    "hgnet_base": {8: 292.842, 16: 148.642, 32: 131.131},
    "hgnetv2_b0": {8: 7.813, 16: 2.498, 32: 1.657},
    "hgnetv2_b1": {8: 9.674, 16: 3.512, 32: 2.535},
    "hgnetv2_b2": {8: 25.498, 16: 8.207, 32: 5.917},
    "hgnetv2_b3": {8: 42.154, 16: 13.076, 32: 9.22},
    "hgnetv2_b4": {8: 57.771, 16: 19.399, 32: 14.252},
    "hgnetv2_b5": {8: 139.845, 16: 47.942, 32: 34.127},
    "hgnetv2_b6": {8: 298.611, 16: 117.768, 32: 87.951},
    "xception": {32: 23.899},
    "xception41": {8: 105.971, 16: 32.837, 32: 25.988},
    "xception65": {8: 158.714, 16: 46.023, 32: 39.174},
    "xception71": {16: 57.737, 32: 50.888},
}
# Parameters of a DeepLabV3+ head with 21 classes, and of the backbone before it.
PLUS_PARAMS = {
    "resnet18": 4_841_333 + 11_176_512,
    "resnet34": 4_841_333 + 21_284_672,
    "resnet50": 16_253_813 + 23_508_032,
    "resnet101": 16_253_813 + 42_500_160,
    "resnet152": 16_253_813 + 58_143_808,
    "resnext50_32x4d": 16_253_813 + 22_979_904,
    "resnext101_32x8d": 16_253_813 + 86_742_336,
    "wide_resnet50_2": 16_253_813 + 66_834_240,
    "wide_resnet101_2": 16_253_813 + 124_837_696,
    "mobilenet": 3_414_005 + 1_811_712,
    "hrnetv2_18_small": 2_825_077 + 1_477_920,
    "hrnetv2_18_small_v2": 3_053_941 + 3_860_720,
    "hrnetv2_18": 3_053_941 + 9_562_260,
    "hrnetv2_30": 4_390_261 + 25_812_276,
    "hrnetv2_32": 4_612_981 + 29_305_536,
    "hrnetv2_40": 5_503_861 + 45_521_216,
    "hrnetv2_44": 5_949_301 + 54_974_640,
    "hrnetv2_48": 6_394_741 + 65_325_120,
    "hrnetv2_64": 8_176_501 + 115_697_600,
    "res2net50_48w_2s": 16_253_813 + 23_238_304,
    "res2net50_14w_8s": 16_253_813 + 23_010_816,
    "res2net50_26w_4s": 16_253_813 + 23_650_120,
    "res2net50_26w_6s": 16_253_813 + 35_002_448,
    "res2net50_26w_8s": 16_253_813 + 46_354_776,
    "res2net101_26w_4s": 16_253_813 + 43_157_688,
    "res2next50": 16_253_813 + 22_622_464,
    "res2net50d": 16_253_813 + 23_669_352,
    "res2net101d": 16_253_813 + 43_176_920,
    "vovnetv2_19_slim_dw": 4_843_637 + 1_384_752,
    "vovnetv2_19_dw": 8_651_637 + 5_518_080,
    "vovnetv2_19_slim": 4_843_637 + 2_653_136,
    "vovnetv2_19": 8_651_637 + 10_180_416,
    "vovnetv2_39": 8_651_637 + 25_184_128,
    "vovnetv2_57": 8_651_637 + 41_454_912,
    "vovnetv2_99": 8_651_637 + 69_523_520,
    "vovnetv2_39b": 8_651_637 + 23_543_936,
    "vovnetv2_57b": 8_651_637 + 37_583_936,
    "vovnetv2_99b": 8_651_637 + 62_174_272,
    "hgnetv2_b0": 8_642_421 + 1_850_396,
    "hgnetv2_b1": 8_642_421 + 2_197_004,
    "hgnetv2_b2": 12_445_045 + 6_026_626,
    "hgnetv2_b3": 16_247_669 + 10_048_910,
    "hgnetv2_b4": 16_247_669 + 13_553_376,
    "hgnetv2_b5": 16_247_669 + 33_325_760,
    "hgnetv2_b6": 16_250_741 + 69_013_472,
    "xception": 16_247_669 + 20_806_952,
    "xception41": 16_253_813 + 24_920_560,
    "xception65": 16_253_813 + 37_867_312,
    "xception71": 16_253_813 + 40_289_736,
}
FEW = ("resnet18", "mobilenet")


def test_every_backbone_has_costs() -> None:
    stored = json.loads(summary.COSTS_FILE.read_text())
    assert list(stored) == list(BACKBONES), "run `make tables`"
    assert set(GMACS) == set(BACKBONES)


@pytest.mark.parametrize("name", GMACS)
def test_backbones_cost_what_others_measure(name: str) -> None:
    stored = json.loads(summary.COSTS_FILE.read_text())[name]["flops"]
    for stride, gmacs in GMACS[name].items():
        assert stored[str(stride)]["backbone"] == pytest.approx(2e9 * gmacs, rel=0.01), stride


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FEW else [pytest.mark.slow]) for n in BACKBONES]
)
def test_costs_are_fresh(name: str) -> None:
    stored = json.loads(summary.COSTS_FILE.read_text())
    assert stored[name] == summary.count_costs(name), "run `make tables`"


def test_a_backbone_without_stored_costs_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "stored_costs", dict)
    row = summary.model_summary("deeplabv3plus_resnet18")
    assert (row.params, list(row.gflops)) == (16_017_845, [8, 16, 32])
    assert row.gflops[16] == pytest.approx(2 * (15.917 + 15.708), rel=0.001)


@pytest.mark.parametrize("backbone", PLUS_PARAMS)
def test_deeplabv3plus_parameter_counts(backbone):
    with torch.device("meta"):
        model = network.create_model(f"deeplabv3plus_{backbone}")
    assert sum(p.numel() for p in model.parameters()) == PLUS_PARAMS[backbone]


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        # Backbone and head at 512x512, measured on timm's and the predecessor's.
        ("deeplabv3plus_resnet50", 32.4 + 27.133),
        ("deeplabv3plus_resnet18", 15.9 + 15.708),
        ("deeplabv3plus_mobilenet", 2.4 + 14.267),
        ("deeplabv3plus_hrnetv2_18_small", 3.155 + 45.219),
        pytest.param("deeplabv3plus_hrnetv2_48", 84.722 + 101.691, marks=pytest.mark.slow),
    ],
)
def test_summary_of_a_model(name, gmacs):
    row = summary.model_summary(name)
    default = 4 if "hrnet" in name else 16
    assert row.gflops[default] == pytest.approx(2 * gmacs, rel=0.005)
    assert row.params == PLUS_PARAMS[name.split("_", 1)[1]]
    assert list(row.gflops) == ([4] if "hrnet" in name else [8, 16, 32])


def test_models_table():
    table = summary.models_table()
    assert max(map(len, table.splitlines())) <= 100
    _, rows = table.split("\n\n")
    titles, header, *rows = rows.splitlines()
    assert titles.split() == ["deeplabv3", "deeplabv3plus"]
    assert header.split()[:4] == ["backbone", "strides", "params", "GFLOPs"]
    assert [row.split()[0] for row in rows] == list(BACKBONES)
    # 2 x GMACs of backbone and head: 99.7 and 73.5 at 8, 32.4 and 27.1 at 16, ... at 32.
    (row,) = [row for row in rows if row.startswith("resnet50 ")]
    cells = ["resnet50", "8/16/32", "39.64", "327/97/51", "39.76", "346/119/74"]
    assert row.split() == [*cells, "76.13", "bsd-3-clause"]
    assert [row.split()[-1] for row in rows if row.startswith("vovnetv2_19 ")] == ["-"]


def test_models_document():
    """Whether docs/models.md is up to date; and one row of it."""
    page = summary.models_document()
    assert summary.DOCUMENT.read_text() == page, "run `make tables`"
    published = "resnet50-0676ba61.pth: 76.13 %, bsd-3-clause"
    assert f"| 39.64 | 327/97/51 | 39.76 | 346/119/74 | {published} |" in page
    assert "\n| vovnetv2_19 | 8/16/32 | " in page and page.count("none published") == 7
