"""The tables of models: what --list_models prints, and docs/models.md.

Counting the parameters and operations of all models takes minutes, so they are kept in costs.json.
`python -m network.summary` counts them anew and writes both files.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .backbone import BACKBONES
from .costs import COSTS_FILE, Costs, stored_costs
from .factory import ARCHITECTURES, build_model, model_parts
from .pretrained import describe

IMAGE_SIZE = 512
DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
TEXT_INTRODUCTION = """\
Models: deeplabv3_BACKBONE and deeplabv3plus_BACKBONE. Parameters in millions with 21 classes;
GFLOPs of a 512x512 image at each output stride; accuracy in percent and license of the ImageNet
weights that --pretrained imagenet fetches (none published: --pretrained FILE).
"""
DOCUMENT_INTRODUCTION = """\
# Models

Every backbone makes two models: `deeplabv3_<backbone>` and `deeplabv3plus_<backbone>`. Parameters
are in millions, with 21 classes. GFLOPs are those of a 512x512 image at each output stride; a
multiply-add counts as two. The weights are those that `--pretrained imagenet` fetches, with their
ImageNet accuracy and license; where nobody has published any, give a file.

A file fits a network by the names and shapes of its tensors. timm's `resnetblur50` and `resnetaa50`
have those of `resnet50`, but blur or average before they subsample: they load without a word, and
give other features than in timm.

`make tables` writes this page.

"""


class ModelSummary(NamedTuple):
    """What a model costs."""

    params: int
    gflops: dict[int, float]  # of an image by output stride; a multiply-add counts as two


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(module: nn.Module, inputs: object) -> tuple[int, Any]:
    """Operations of one call, and its result."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = module(inputs)
    return counter.get_total_flops(), outputs


@cache
def count_costs(backbone_name: str) -> Costs:
    """Parameters and operations of a backbone's models, from shapes alone."""
    params: dict[str, int] = {}
    flops: dict[str, dict[str, int]] = {}
    for stride in BACKBONES[backbone_name].network.output_strides:
        counts: dict[str, int] = {}
        features: Any = {}
        with torch.device("meta"):
            image = torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE)
            for architecture in ARCHITECTURES:
                model = build_model(f"{architecture}_{backbone_name}", output_stride=stride).eval()
                if not counts:  # the backbone is the same in both, and takes long to count
                    counts["backbone"], features = _flops(model.backbone, image)
                head, _ = _flops(model.classifier, features)
                counts[architecture] = counts["backbone"] + head
                params |= {
                    "backbone": _num_params(model.backbone),
                    architecture: _num_params(model),
                }
        flops[str(stride)] = counts
    return {"params": params, "flops": flops}


def _costs(backbone_name: str) -> Costs:
    """From the file, or counted now if the file lacks the backbone."""
    return stored_costs().get(backbone_name) or count_costs(backbone_name)


def model_summary(name: str) -> ModelSummary:
    """Parameters of a model, and its operations by output stride."""
    architecture, backbone_name = model_parts(name)
    costs = _costs(backbone_name)
    gflops = {int(s): counts[architecture] / 1e9 for s, counts in costs["flops"].items()}
    return ModelSummary(costs["params"][architecture], gflops)


def _cells(backbone: str) -> list[str]:
    """Strides, then parameters and GFLOPs of each architecture."""
    rows = [model_summary(f"{architecture}_{backbone}") for architecture in ARCHITECTURES]
    cells = ["/".join(map(str, rows[0].gflops))]
    for row in rows:
        gflops = "/".join(f"{value:.0f}" for value in row.gflops.values())
        cells += [f"{row.params / 1e6:.2f}", gflops]
    return cells


def models_table() -> str:
    """The table as text, one line a backbone, no wider than 100 columns."""
    layout = "{:<19}  {:<7}  {:>6}  {:<11}  {:>6}  {:<11}  {:>5}  {}"
    titles = ["backbone", "strides", *["params", "GFLOPs"] * 2, "top-1", "license"]
    lines = [layout.format("", "", *(x for name in ARCHITECTURES for x in ("", name)), "", "")]
    lines.append(layout.format(*titles))
    for backbone, (_, variant) in BACKBONES.items():
        weights = variant.weights
        top1 = f"{weights.top1:.2f}" if weights and weights.top1 else "-"
        lines.append(
            layout.format(backbone, *_cells(backbone), top1, weights.license if weights else "-")
        )
    return TEXT_INTRODUCTION + "\n" + "\n".join(line.rstrip() for line in lines)


def models_document() -> str:
    """The table as a page in Markdown, with the source of the weights."""
    titles = ["backbone", "strides", *(f"{a}: {x}" for a in ARCHITECTURES for x in ("M", "GFLOPs"))]
    rows = [[*titles, "weights: top-1, license"], ["---", "---", *["---:"] * 4, "---"]]
    for backbone, (_, variant) in BACKBONES.items():
        source = "none published"
        if weights := variant.weights:
            top1 = "" if weights.top1 is None else f" {weights.top1:.2f} %,"
            source = f"{describe(weights)}:{top1} {weights.license}"
        rows.append([backbone, *_cells(backbone), source])
    return DOCUMENT_INTRODUCTION + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_tables() -> None:
    """Count the costs of all backbones anew; write costs.json and docs/models.md."""
    lines = [f'"{name}": {json.dumps(count_costs(name))}' for name in BACKBONES]
    COSTS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    stored_costs.cache_clear()
    DOCUMENT.write_text(models_document())


if __name__ == "__main__":
    write_tables()
