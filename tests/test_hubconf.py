from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

import network
from tests.helpers import ROOT


def test_has_every_model_and_checkpoint():
    hubconf = importlib.import_module("hubconf")
    names = {name for name, value in vars(hubconf).items() if callable(value)}
    assert names == {*network.list_models(), "checkpoint"}


def test_loads_a_model_by_name():
    name = "deeplabv3plus_hgnetv2_b0"
    model = torch.hub.load(str(ROOT), name, source="local", num_classes=7)
    assert model.name == name and model.build_args["num_classes"] == 7


def test_loads_a_checkpoint(tmp_path):
    model = network.create_model("deeplabv3_resnet18", num_classes=3, output_stride=32).eval()
    content = {"format": 1, "model_name": model.name, "build_args": model.build_args}
    torch.save(content | {"model_state": model.state_dict()}, tmp_path / "best.pth")
    found = torch.hub.load(str(ROOT), "checkpoint", str(tmp_path / "best.pth"), source="local")
    image = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
    assert (found.predict(image) == model.predict(image)).all()


def test_says_which_file_is_missing():
    with pytest.raises(FileNotFoundError, match="no file nowhere.pth"):
        torch.hub.load(str(ROOT), "checkpoint", "nowhere.pth", source="local")
