"""Where a run takes place."""

from __future__ import annotations

import pytest
import torch

from utils.runtime.environment import device_name


def test_each_device_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert device_name(torch.device("cuda", 3)) == "GPU 3"
    assert device_name(torch.device("mps")) == "mps"
    assert device_name(torch.device("cpu")).startswith("cpu (")
