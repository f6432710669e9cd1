"""The arithmetic of the network: which number formats it computes in."""

from __future__ import annotations

import torch

# Under autocast, convolutions and matrix products run in this type; the weights stay float32.
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context for the network's passes; fp32 and tf32 leave every operation as it is."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def set_float32_precision(precision: str) -> None:
    """Let GPUs compute float32 products in TF32 for `tf32`, and in full precision otherwise.

    torch allows TF32 convolutions unless it is told not to. A mask predicted so differs from the
    one that was scored.
    """
    allowed = precision == "tf32"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
