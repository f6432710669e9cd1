"""What ``--list_models`` prints."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .backbone import BACKBONES
from .factory import ARCHITECTURES, build_model, model_parts

IMAGE_SIZE = 512


class ModelSummary(NamedTuple):
    """One row of the table of models."""

    name: str
    params: int
    gflops: float  # of one 512x512 image at the default output stride, a multiply-add being two
    output_strides: tuple[int, ...]
    weights: str


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _gflops(module: nn.Module, inputs: Tensor | dict[str, Tensor]) -> tuple[float, object]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = module(inputs)
    return counter.get_total_flops() / 1e9, outputs


@cache
def _summaries(backbone_name: str) -> dict[str, ModelSummary]:
    """Rows of a backbone's models, which share the costly part; nothing is really computed."""
    strides = BACKBONES[backbone_name].network.output_strides
    rows, backbone_gflops, features = {}, 0.0, {}
    with torch.device("meta"):
        for architecture in ARCHITECTURES:
            model = build_model(f"{architecture}_{backbone_name}").eval()
            if not features:
                image = torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE)
                backbone_gflops, features = _gflops(model.backbone, image)
            head_gflops, _ = _gflops(model.classifier, features)
            rows[model.name] = ModelSummary(
                model.name, _num_params(model), backbone_gflops + head_gflops, strides, "file"
            )
    return rows


def model_summary(name: str) -> ModelSummary:
    """Parameters, cost, output strides and weights of a model."""
    return _summaries(model_parts(name).backbone)[name]


def models_table(markdown: bool = False) -> str:
    """All models, one a line, as plain text or as a Markdown table."""
    backbones = BACKBONES
    rows = [_summaries(b)[f"{a}_{b}"] for a in ARCHITECTURES for b in backbones]
    cells = [["model", "params (M)", f"GFLOPs at {IMAGE_SIZE}", "output strides", "weights"]]
    for row in rows:
        strides = "/".join(map(str, row.output_strides))
        cells.append(
            [row.name, f"{row.params / 1e6:.2f}", f"{row.gflops:.1f}", strides, row.weights]
        )
    if markdown:
        cells.insert(1, ["---", "---:", "---:", "---", "---"])
        return "\n".join("| " + " | ".join(line) + " |" for line in cells)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:>{widths[2]}}  "
        f"{line[3]:<{widths[3]}}  {line[4]}"
        for line in cells
    )
