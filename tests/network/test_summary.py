"""The table of costs: fresh, and what others measure."""

from __future__ import annotations

import json

import pytest

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
    monkeypatch.setattr(summary, "_stored_costs", dict)
    row = network.model_summary("deeplabv3plus_resnet18")
    assert (row.params, row.output_strides) == (16_017_845, (8, 16, 32))
    assert row.gflops[16] == pytest.approx(2 * (15.917 + 15.708), rel=0.001)
