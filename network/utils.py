"""Modules that make a model of a backbone and a head, and the model's input of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .recompute import recomputed
from .upsampled_conv import ConcatMaps, Feature, concat_maps, upsample


class IntermediateLayerGetter(nn.ModuleDict):
    """Runs the children of a sequential model in order and returns the outputs of some of them.

    `return_layers` maps the name of a child to the name of its output. Where a child gives a list
    of maps, the output is the first. Children after the last one needed are dropped. State-dict
    keys are those of the model. With `recomputes`, training keeps little of the forward pass and
    computes it again in the backward pass.
    """

    recomputes = False

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]) -> None:
        children = dict(model.named_children())
        missing = [name for name in return_layers if name not in children]
        if missing:
            raise ValueError(f"no child {missing[0]!r} in the model; it has {', '.join(children)}")
        kept: dict[str, nn.Module] = {}
        wanted = set(return_layers)
        for name, child in children.items():
            if not wanted:
                break
            kept[name] = child
            wanted.discard(name)
        super().__init__(kept)
        self.return_layers = dict(return_layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs by name, each one map (N,C,h,w)."""
        features = self.features(x).items()
        return {key: x if isinstance(x, Tensor) else concat_maps(*x) for key, x in features}

    def features(self, x: Tensor) -> dict[str, Feature]:
        """The outputs by name; the maps that a last child `ConcatMaps` would join are a tuple."""
        features: dict[str, Feature] = {}
        waiting: list[nn.Module] = []  # children up to the next output
        for name, child in self.items():
            joins = isinstance(child, ConcatMaps)
            if not joins:
                waiting.append(child)
            if name in self.return_layers:
                recomputes = self.recomputes and self.training
                for layer in recomputed(waiting) if recomputes else waiting:
                    x = layer(x)
                waiting = []
                feature = tuple(x) if joins else x if isinstance(x, Tensor) else x[0]
                features[self.return_layers[name]] = feature
        return features


class SimpleSegmentationModel(nn.Module):
    """Images (N,3,H,W), normalized -> logits (N,C,H,W), for any H and W from 33 up.

    `classifier` takes what `backbone` gives: with an `IntermediateLayerGetter` a dict of maps.
    """

    def __init__(
        self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def features(self, x: Tensor) -> Mapping[str, Feature]:
        """What the heads take."""
        return self.backbone(x)

    def low_res_logits(self, x: Tensor) -> Tensor:
        """Logits (N,C,h,w) as the head gives them, before they are upsampled to the image."""
        return self.classifier(self.features(x))

    def low_res_outputs(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of each head, (N,C,h,w) of its own size: "out", and "aux" in training."""
        features = self.features(x)
        outputs = {"out": self.classifier(features)}
        if self.training and self.aux_classifier is not None:
            outputs["aux"] = self.aux_classifier(features["aux"])
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        return upsample(self.low_res_logits(x), (x.shape[2], x.shape[3]))


_SimpleSegmentationModel = SimpleSegmentationModel  # as in VainF/DeepLabV3Plus-Pytorch


class Normalize(nn.Module):
    """Images (N,3,H,W) or (3,H,W), uint8 in 0..255 or float in 0..1 -> normalized float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor([float(value) for value in values]).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.to(torch.float32) / 255
        elif not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; they must be uint8 or floating point")
        return (images.to(torch.float32) - self.mean.float()) / self.std.float()
