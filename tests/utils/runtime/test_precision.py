"""Which number formats the network computes in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from utils.runtime.precision import autocast, set_float32_precision


@pytest.fixture(autouse=True)
def _settings_as_before() -> Iterator[None]:
    yield
    set_float32_precision("fp32")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True)])
def test_tf32_is_used_only_where_it_is_asked_for(precision: str, allowed: bool) -> None:
    set_float32_precision("fp32" if allowed else "tf32")
    set_float32_precision(precision)
    assert torch.backends.cudnn.allow_tf32 is allowed
    assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_autocast(precision: str, dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype is dtype
