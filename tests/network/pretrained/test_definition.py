"""A checkpoint with values that can't be right is one clear line, for whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from network import create_model, load_checkpoint
from network.pretrained import read_file

RESNET = "deeplabv3_resnet18"
FULL = {
    "cur_itrs": 5,
    "best_score": 0.5,
    "best_itrs": 3,
    "num_worse": 1,
    "bn_momentum": 0.01,
    "class_weights": [1.0, 2.5],
    "num_threads": 2,
    "num_train": 100,
    "options": {"lr": 0.1, "gpu_id": None, "scale_range": [0.5, 2.0], "ema": False},
    "command": "main.py",
    "optimizer_state": {
        "state": {0: {"momentum_buffer": torch.zeros(2)}, 1: {"momentum_buffer": None}},
        "param_groups": [{"lr": 0.1, "nesterov": False, "params": [0, 1]}],
    },
    "scheduler_state": {"last_epoch": 5},
    "scaler_state": {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    },
    "rng": [{"cpu": torch.get_rng_state(), "cuda": []}],
}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    with torch.device("meta"):
        empty = create_model(RESNET, num_classes=2)
    return empty.to_empty(device="cpu")


@pytest.fixture
def content(model, own_checkpoint: Callable) -> dict[str, Any]:
    """Everything a checkpoint may hold, but for the average; few tensors, to be quick."""
    return own_checkpoint(model, **FULL, model_state={"x": torch.ones(1)})


def test_good_ones_pass(content, tmp_path):
    more = {"ema_state": {"x": torch.zeros(1)}, "class_weights": None, "scaler_state": {}}
    for changes in ({}, more, {"best_score": 1}, {"palette": torch.zeros(256, 3).byte()}):
        torch.save(content | changes, tmp_path / "x.pth")
        assert read_file(tmp_path / "x.pth")["cur_itrs"] == 5


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("cur_itrs", -1, "cur_itrs is -1; it must be at least 0"),
        ("cur_itrs", "7", "cur_itrs is '7'; it must be a whole number"),
        ("cur_itrs", True, "cur_itrs is True; it must be a whole number"),
        ("cur_itrs", torch.tensor(3), "cur_itrs is a Tensor; it must be a whole number"),
        ("best_score", None, "best_score is None; it must be a number"),
        ("best_score", float("nan"), "best_score is nan; it must be a number"),
        ("best_score", 10**400, "best_score is 1000.*; it must be a number"),
        ("best_score", 71.5, "best_score is 71.5; it must be between 0 and 1"),
        ("num_threads", 0, "num_threads is 0; it must be at least 1"),
        ("num_train", [], "num_train is a list; it must be a whole number"),
        ("bn_momentum", 5.0, "bn_momentum is 5.0; it must be between 0 and 1"),
        ("class_weights", [1.0], "class_weights has 1 entries; it must have 2"),
        ("class_weights", [1.0, -1.0], "class_weights has a negative weight"),
        ("class_weights", "ab", "class_weights is 'ab'; it must be a list or None"),
        ("class_names", ["road"], "class_names has 1 entries; it must have 2"),
        ("class_names", ["road", 7], r"class_names\[1\] is 7; it must be a text"),
        ("class_names", None, "class_names is None; it must be a list"),
        ("mean", [0.1, 0.2], "mean has 2 entries; it must have 3"),
        ("mean", [0.1, 0.2, float("nan")], r"mean\[2\] is nan; it must be a number"),
        ("std", [0.1, 0.0, 0.1], r"std is \[0.1, 0.0, 0.1\]; its values must be between 1e-06"),
        ("mean", [1e30, 0.5, 0.5], r"mean is .*; no value may be beyond 1e\+06"),
        ("std", [0.1, float("inf"), 0.1], r"std\[1\] is inf; it must be a number"),
        (
            "palette",
            torch.zeros(21, 3).byte(),
            r"palette is torch.uint8 \(21, 3\), not uint8 \(256",
        ),
        ("palette", torch.zeros(256, 3), "palette is torch.float32"),
        ("palette", torch.zeros(256, 3).byte().to_sparse(), "palette is sparse; it must be dense"),
        ("palette", torch.zeros(256, 3, device="meta"), "palette has no values"),
        ("palette", [[0, 0, 0]], "palette is a list; it must be a tensor"),
        ("model_state", [1], "model_state is a list; it must be a dict"),
        ("model_state", {"x": 3}, r"model_state\['x'\] is 3; it must be a tensor"),
        ("model_state", {"x": torch.ones(2, device="meta")}, r"model_state\['x'\] has no values"),
        ("model_state", {"x": torch.eye(2).to_sparse()}, r"model_state\['x'\] is sparse"),
        ("model_state", {3: torch.ones(2)}, "a key of model_state is 3; it must be a text"),
        ("ema_state", {}, "the tensors of ema_state are not those of model_state"),
        ("ema_state", {"x": torch.ones(2)}, "the tensors of ema_state are not those of model_st"),
        ("ema_state", None, "ema_state is None; it must be a dict"),
        ("ema_updates", -3, "ema_updates is -3; it must be at least 0"),
        ("model_name", 3, "model_name is 3; it must be a text"),
        ("build_args", {}, "build_args has no num_classes"),
        ("build_args", [], "build_args is a list; it must be a dict"),
        ("options", [1], "options is a list; it must be a dict"),
        ("options", {"lr": torch.ones(2)}, r"options\['lr'\] is a Tensor; it must be "),
        ("command", 3, "command is 3; it must be a text"),
        ("rng", {}, "rng is a dict; it must be a list"),
        ("rng", [torch.ones(3)], r"rng\[0\] is a Tensor; it must be a dict"),
        ("rng", [{"cpu": torch.get_rng_state()}], r"rng\[0\] has no cuda"),
        ("rng", [{"cpu": torch.ones(3), "cuda": []}], r"rng\[0\] is not the state of a random gen"),
        ("rng", [{"cpu": torch.ones(9).byte(), "cuda": []}], r"rng\[0\] is not the state of a ran"),
        ("scheduler_state", 3, "scheduler_state is 3; it must be a dict"),
        ("scaler_state", {"scale": 2.0}, "scaler_state has no growth_factor"),
        (
            "scaler_state",
            FULL["scaler_state"] | {"scale": 0.0},
            "scaler_state.scale is 0.0; it must",
        ),
        (
            "scaler_state",
            FULL["scaler_state"] | {"scale": "a"},
            "scaler_state.scale is 'a'; it must",
        ),
        ("optimizer_state", {}, "optimizer_state has no state"),
        ("optimizer_state", {"state": {}}, "optimizer_state has no param_groups"),
        ("optimizer_state", {"state": [], "param_groups": []}, "optimizer_state.state is a list"),
        (
            "optimizer_state",
            {"state": {}, "param_groups": [{}]},
            r"optimizer_state.param_groups\[0\] has no params",
        ),
        (
            "optimizer_state",
            {"state": {0: 7}, "param_groups": []},
            r"optimizer_state.state\[0\] is 7; it must",
        ),
        (
            "optimizer_state",
            {"state": {}, "param_groups": [{"params": ["a"]}]},
            r"optimizer_state.param_groups\[0\].params\[0\] is 'a'; it must be a whole number",
        ),
        ("format", torch.ones(2), "has checkpoint format"),
    ],
)
def test_bad_ones_are_one_line(key, value, problem, content, tmp_path):
    torch.save(content | {key: value}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x\.pth (is no valid checkpoint: )?{problem}") as error:
        load_checkpoint(tmp_path / "x.pth")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("entry", "value", "problem"),
    [
        ("num_classes", 0, "num_classes is 0; it must be between 1 and 255"),
        ("num_classes", 10**12, "num_classes is 1000000000000; it must be between 1 and 255"),
        ("num_classes", 2.0, "build_args.num_classes is 2.0; it must be a whole number"),
        ("output_stride", "16", "build_args.output_stride is '16'; it must be a whole number"),
        ("aspp_rates", ["a", 2, 3], r"build_args.aspp_rates\[0\] is 'a'; it must be a whole"),
        ("backbone_args", None, "build_args.backbone_args is None; it must be a dict"),
        (
            "backbone_args",
            {"legacy_padding": torch.ones(2)},
            r"backbone_args\['legacy_padding'\] is",
        ),
        ("color", "red", "build_args has an unknown entry color"),
    ],
)
def test_bad_build_arguments(entry, value, problem, content, tmp_path):
    content["build_args"] = content["build_args"] | {entry: value}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"x.pth is no valid checkpoint: {problem}"):
        load_checkpoint(tmp_path / "x.pth")


def test_other_weight_files_keep_their_own_meaning(tmp_path):
    """Only a checkpoint, ours or the predecessor's, has our definition."""
    content = {"model_state": {"x": torch.ones(1)}, "best_score": [1], "rng": 7, "std": "no"}
    torch.save(content, tmp_path / "x.pth")
    assert read_file(tmp_path / "x.pth")["rng"] == 7
    torch.save(content | {"cur_itrs": 3}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is no valid checkpoint: std is 'no'; it must be a list"):
        read_file(tmp_path / "x.pth")
