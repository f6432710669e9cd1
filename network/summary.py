"""What ``--list_models`` prints.

Parameters and operations of each model are kept in costs.json: counting them takes a while. It is
written by

    make tables    # or: python -c "from network import summary; summary.write_costs()"
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .backbone import BACKBONES
from .factory import ARCHITECTURES, build_model, model_parts
from .pretrained import describe

IMAGE_SIZE = 512
COSTS_FILE = Path(__file__).with_name("costs.json")

# Of a backbone: {"params": {"deeplabv3": 123, ...}, "flops": {"16": {"backbone": 123, ...}, ...}}
Costs = dict[str, dict]


class ModelSummary(NamedTuple):
    """One row of the table of models."""

    name: str
    params: int
    gflops: dict[int, float]  # of a 512x512 image by output stride, a multiply-add being two
    weights: str

    @property
    def output_strides(self) -> tuple[int, ...]:
        return tuple(self.gflops)


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(module: nn.Module, inputs: Tensor | dict[str, Tensor]) -> tuple[int, object]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = module(inputs)
    return counter.get_total_flops(), outputs


@cache
def count_costs(backbone_name: str) -> Costs:
    """Parameters and operations of a backbone's models, with 21 classes; nothing is computed."""
    params: dict[str, int] = {}
    flops: dict[str, dict[str, int]] = {}
    for stride in BACKBONES[backbone_name].network.output_strides:
        counts: dict[str, int] = {}
        features: object = {}
        with torch.device("meta"):
            image = torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE)
            for architecture in ARCHITECTURES:
                model = build_model(f"{architecture}_{backbone_name}", output_stride=stride).eval()
                if not counts:  # the backbone is the costly part, and the same in all
                    counts["backbone"], features = _flops(model.backbone, image)
                head, _ = _flops(model.classifier, features)
                counts[architecture] = counts["backbone"] + head
                params[architecture] = _num_params(model)
        flops[str(stride)] = counts
    return {"params": params, "flops": flops}


@cache
def _stored_costs() -> Costs:
    return json.loads(COSTS_FILE.read_text()) if COSTS_FILE.exists() else {}


def _costs(backbone_name: str) -> Costs:
    """From the file, or counted now where it does not know the backbone."""
    return _stored_costs().get(backbone_name) or count_costs(backbone_name)


def _weights(backbone_name: str) -> str:
    weights = BACKBONES[backbone_name].variant.weights
    if weights is None:
        return "file"
    accuracy = "" if weights.top1 is None else f" {weights.top1:.2f} %"
    return f"{describe(weights)}{accuracy} ({weights.licence})"


def model_summary(name: str) -> ModelSummary:
    """Parameters, cost by output stride, and weights of a model."""
    architecture, backbone_name = model_parts(name)
    costs = _costs(backbone_name)
    gflops = {int(s): counts[architecture] / 1e9 for s, counts in costs["flops"].items()}
    return ModelSummary(name, costs["params"][architecture], gflops, _weights(backbone_name))


def _cells(row: ModelSummary) -> list[str]:
    strides = "/".join(map(str, row.output_strides))
    gflops = " / ".join(f"{value:.0f}" for value in row.gflops.values())
    return [f"{row.params / 1e6:.2f}", strides, gflops]


def models_table(markdown: bool = False) -> str:
    """All models, one a line; or, in Markdown, all backbones, each with both architectures."""
    flops_title = f"GFLOPs at {IMAGE_SIZE}"
    if markdown:
        return _markdown_table(flops_title)
    cells = [["model", "params (M)", "output strides", flops_title, "weights"]]
    for architecture in ARCHITECTURES:
        for backbone in BACKBONES:
            row = model_summary(f"{architecture}_{backbone}")
            cells.append([row.name, *_cells(row), row.weights])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:<{widths[2]}}  "
        f"{line[3]:>{widths[3]}}  {line[4]}"
        for line in cells
    )


def _markdown_table(flops_title: str) -> str:
    lines = [["backbone", "output strides", "weights, top-1 (licence)"], ["---", "---", "---"]]
    for position, architecture in enumerate(ARCHITECTURES):
        lines[0][1 + 2 * position : 1 + 2 * position] = [f"{architecture}: M params", flops_title]
        lines[1][1:1] = ["---:", "---:"]
    for backbone in BACKBONES:
        rows = [model_summary(f"{architecture}_{backbone}") for architecture in ARCHITECTURES]
        cells = [_cells(row) for row in rows]
        costs = [cell for params, _, gflops in cells for cell in (params, gflops)]
        lines.append([backbone, *costs, cells[0][1], rows[0].weights])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_costs() -> None:
    """Count anew for every backbone, and write the file."""
    lines = [f'"{name}": {json.dumps(count_costs(name))}' for name in BACKBONES]
    COSTS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
