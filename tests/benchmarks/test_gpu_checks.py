"""The checks of a GPU, on the CPU too, so that they are known to work before there is a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.__main__ import CHECKS
from benchmarks.gpu.network_checks import SLOW_ON_CPU


def places(name: str) -> list:
    """The CPU, and a GPU where there is one."""
    slow = [pytest.mark.slow] if name in SLOW_ON_CPU else []
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    return [
        pytest.param(name, "cpu", marks=slow, id=f"{name}-cpu"),
        pytest.param(name, "cuda", marks=[pytest.mark.gpu, missing], id=f"{name}-cuda"),
    ]


@pytest.mark.parametrize(("name", "device"), [case for name in CHECKS for case in places(name)])
def test_check(name: str, device: str) -> None:
    assert CHECKS[name](torch.device(device))
