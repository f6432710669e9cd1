"""A network that `python -m network.export` wrote, run by onnxruntime, as the pipeline uses it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.facts import make_palette
from utils.prediction.torch_device import labels_and_confidence
from utils.runtime.files import open_regular

Result = tuple[np.ndarray, np.ndarray | None]  # labels and confidence


class OnnxDevice:
    """An ONNX file with its class names and colors; one that can't be used is a ValueError.

    onnxruntime takes a GPU where the installed package can.
    """

    in_flight = 0

    def __init__(
        self, path: str, device: torch.device, *, batch_size: int | None, with_confidence: bool
    ) -> None:
        self.path, self.with_confidence = path, with_confidence
        self.session = _session(path, device)
        self.output, self.size = _signature(self.session, path)
        self.batch_size = batch_size or (1 if device.type == "cpu" else 4)
        self.class_names, self.palette = _classes(self.session, path)
        if with_confidence and self.output != "logits":
            raise ValueError(
                f"{path} gives labels only, but --confidence and --summary need probabilities: "
                "export it with --output_kind logits"
            )

    def stage(self, image: np.ndarray) -> np.ndarray:
        """The image (H,W,3) as the graph takes it: (3,H,W)."""
        return image.transpose(2, 0, 1)

    def launch(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Predict images of one size."""
        try:
            (output,) = self.session.run([self.output], {"image": np.stack(images)})
        except Exception as error:  # onnxruntime's own kinds, below Exception alone
            raise ValueError(f"{self.path} can't be run: {_first_line(error)}") from None
        if self.output == "labels":
            return [(labels, None) for labels in output]
        labels, confidence = labels_and_confidence(
            [torch.from_numpy(output)], images[0].shape[1:], with_confidence=self.with_confidence
        )
        levels = [None] * len(images) if confidence is None else confidence.numpy()
        return list(zip(labels.numpy(), levels, strict=True))

    def finish(self, launched: list[Result]) -> list[Result]:
        """What `launch` gave: it waits for the results."""
        return launched


def _session(path: str, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"{path} needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    with open_regular(Path(path)) as file:
        content = file.read()
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's own kinds, below Exception alone
        raise ValueError(f"{path} is no ONNX file that runs: {_first_line(error)}") from None


def _signature(session: Any, path: str) -> tuple[str, tuple[int, int] | None]:
    """The output to use, and the only size (H,W) of images, if there is one."""
    given = {x.name: (x.type, x.shape) for x in session.get_inputs()}
    kind, shape = given.get("image", ("", []))
    outputs = [x.name for x in session.get_outputs() if x.name in ("labels", "logits")]
    usable = len(given) == 1 and kind == "tensor(uint8)" and len(shape) == 4 and outputs
    if not usable or isinstance(shape[0], int):
        raise ValueError(f"{path} was not written by python -m network.export")
    fixed = isinstance(shape[2], int) and isinstance(shape[3], int)
    return outputs[0], (shape[2], shape[3]) if fixed else None


def _classes(session: Any, path: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the palette (256,3)."""
    facts = session.get_modelmeta().custom_metadata_map
    try:
        names = [str(name) for name in json.loads(facts["class_names"])]
        colors = np.array(json.loads(facts["colors"]), dtype=np.uint8).reshape(len(names), 3)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise ValueError(f"{path} has no class names and colors in its metadata") from None
    return tuple(names), make_palette([tuple(map(int, color)) for color in colors])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
