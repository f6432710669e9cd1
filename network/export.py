"""Write a checkpoint as a file for other programs, and check that its answers stay the same.

    python -m network.export --ckpt checkpoints/best_....pth --output model.onnx
    python -m network.export --ckpt FILE --output model.onnx --size 512x1024 --precision fp16
    python -m network.export --ckpt FILE --output small.pth   # without what only training needs

The ONNX graph takes `image`: uint8 (N,3,H,W), RGB, and normalizes it. It gives `labels`: uint8
(N,H,W), or `logits`: float32 (N,C,H,W). Its metadata are JSON: `model_name`, `class_names`,
`colors` (RGB of each class), `mean` and `std`. onnxruntime then runs it on random images, and on
those of `--images`, beside the network.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
import json
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from . import pretrained
from ._deeplab import DeepLabV3
from .folding import folded
from .upsampled_conv import upsample

NEEDED = ("onnx", "onnxruntime")
OPSET = 18  # of onnxruntime from 1.14 on
MAX_DIFFERENT = 1e-4  # share of the labels, in fp32
SMALLEST_SIDE = 33
MAX_SIDE = 1024  # larger pictures of --images are shrunk for the comparison
ODD_SIZES = ((65, 97), (33, 50), (128, 95))  # that `any` is tried with
Size = tuple[int, int]  # height, width


class _Graph(nn.Module):
    """From the pixels of images to what the file gives: logits at full size, and labels."""

    def __init__(self, model: DeepLabV3, *, dtype: torch.dtype, with_labels: bool) -> None:
        super().__init__()
        self.normalize = model.normalize
        self.model = folded(model).to(dtype)
        self.dtype, self.with_labels = dtype, with_labels

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        low_res = self.model.low_res_logits(self.normalize(image).to(self.dtype)).float()
        logits = upsample(low_res, (image.shape[2], image.shape[3]))
        return (logits, logits.argmax(1).to(torch.uint8)) if self.with_labels else (logits,)


def to_onnx(model: DeepLabV3, *, size: Size | None, half: bool, with_labels: bool) -> Any:
    """The ONNX model: `image` -> `logits`, and with them `labels`; `size` None takes any.

    The exporter is the one that runs the network, since the newer one (`dynamo=True`) binds some
    networks to even sizes with torch 2.11, and is several times slower.
    """
    import onnx

    dtype = torch.float16 if half else torch.float32
    graph = _Graph(model, dtype=dtype, with_labels=with_labels).eval()
    names = ["logits", "labels"][: 1 + with_labels]
    free = {0: "batch", 2: "height", 3: "width"}
    axes = {"image": free, "logits": free, "labels": {0: "batch", 1: "height", 2: "width"}}
    file: Any = io.BytesIO()  # which the signature does not allow
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's age, and of sizes, which are compared
        torch.onnx.export(
            graph,
            (torch.zeros(1, 3, 34, 66, dtype=torch.uint8),),  # small: CPUs are slow in fp16
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=names,
            dynamic_axes={name: axes[name] for name in ("image", *names)},
        )
    found = onnx.load_from_string(file.getvalue())
    for value in [*found.graph.input, *found.graph.output] if size else []:
        for dim, side in zip(value.type.tensor_type.shape.dim[-2:], size or (), strict=True):
            dim.dim_value = side
    facts = {"model_name": model.name, "mean": model.mean, "std": model.std}
    if model.class_names is not None:
        facts["class_names"] = model.class_names
    if model.palette is not None:
        facts["colors"] = model.palette[: model.build_args["num_classes"]].tolist()
    onnx.helper.set_model_props(found, {key: json.dumps(value) for key, value in facts.items()})
    return found


def session(content: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    """What runs an ONNX file's content on a batch of images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of nodes that it leaves out
    options.intra_op_num_threads = torch.get_num_threads()
    made = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: made.run(None, {"image": images})


@torch.inference_mode()
def compare(
    model: DeepLabV3,
    run: Callable[[np.ndarray], Sequence[np.ndarray]],
    batches: Iterable[np.ndarray],
) -> tuple[float, float, float]:
    """Largest difference between two logits, largest logit of the network, share of equal labels.

    `run` gives logits, and perhaps labels, of a batch of images, uint8 (N,3,H,W).
    """
    difference, largest, equal = [], [], []
    for images in batches:
        expected = model(model.normalize(torch.from_numpy(images)))
        logits, *labels = map(torch.from_numpy, run(images))
        difference.append((logits - expected).abs().max().item())
        largest.append(expected.abs().max().item())
        equal.append(((labels or [logits.argmax(1)])[0] == expected.argmax(1)).flatten())
    return np.max(difference).item(), max(largest), torch.cat(equal).double().mean().item()


def random_images(size: Size | None) -> Iterator[np.ndarray]:
    """Batches of colored blocks with noise: of `size`, or of several odd sizes."""
    generator = np.random.default_rng(0)
    for count, (height, width) in enumerate([size] if size else ODD_SIZES, start=2):
        blocks = generator.integers(30, 226, (count, 3, height // 8 + 1, width // 8 + 1))
        images = blocks.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
        yield (images + generator.integers(-30, 30, images.shape)).astype(np.uint8)


def images_of(folder: Path, size: Size | None) -> Iterator[np.ndarray]:
    """Each picture in the folder and below it as a batch; resized where there is a `size`."""
    suffixes, num_used = Image.registered_extensions(), 0
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except Exception as error:  # damaged files make the readers raise many kinds
            print(f"skipped: {path}: {error}", file=sys.stderr)
            continue
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        height, width = size or (max(side, SMALLEST_SIDE) for side in image.size[::-1])
        num_used += 1
        yield np.array(image.resize((width, height))).transpose(2, 0, 1)[None].copy()
    if not num_used:
        raise ValueError(f"--images {folder} holds no image that can be read")


def slim(model: DeepLabV3) -> bytes:
    """The content of a checkpoint without what only training needs."""
    if model.class_names is None or model.palette is None:
        raise ValueError("the checkpoint has no class names and colors; only those of main.py do")
    content = {
        "format": pretrained.FORMAT,
        "model_name": model.name,
        "build_args": model.build_args,
        "class_names": list(model.class_names),
        "palette": torch.from_numpy(model.palette.copy()),
        "mean": list(model.mean),
        "std": list(model.std),
        "model_state": model.state_dict(),
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file that is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def checked_onnx(model: DeepLabV3, args: argparse.Namespace) -> bytes:
    """The content of the ONNX file, once compared; one that disagrees is a ValueError."""
    with_labels, half = args.output_kind == "labels", args.precision == "fp16"
    made = to_onnx(model, size=args.size, half=half, with_labels=with_labels)
    batches = [random_images(args.size)]
    batches += [images_of(args.images, args.size)] if args.images else []
    run = session(made.SerializeToString())
    difference, largest, equal = compare(model, run, itertools.chain(*batches))
    result = f"largest difference {difference:.2g} between logits up to {largest:.3g}, "
    result += f"{100 * equal:.4f} % of the labels equal"
    if not np.isfinite(difference) or (not half and equal < 1 - MAX_DIFFERENT):
        raise ValueError(f"the exported graph disagrees with {model.name}: {result}")
    print(f"{model.name}: {result}")
    if with_labels:
        del made.graph.output[0]  # the logits, which were there to be compared
    return made.SerializeToString()


def size_of(text: str) -> Size | None:
    """`any` (None) or `HEIGHTxWIDTH`."""
    if text == "any":
        return None
    if not re.fullmatch(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is neither any nor HEIGHTxWIDTH, as 512x1024")
    height, width = map(int, text.split("x"))
    if min(height, width) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text}: sides must be at least {SMALLEST_SIDE}")
    return height, width


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser("python -m network.export", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--ckpt", required=True, help="checkpoint of main.py")
    add("--model", help="the network's name, where the checkpoint does not say it")
    add("--output", type=Path, required=True, help="FILE.onnx, or FILE.pth")
    add("--size", type=size_of, metavar="SIZE", help="of images: any (default) or HEIGHTxWIDTH")
    add("--precision", choices=("fp32", "fp16"), default="fp32")
    add("--output_kind", choices=("labels", "logits"), default="labels")
    add("--images", type=Path, metavar="DIR", help="compare on these images, too")
    args = parser.parse_args(argv)
    suffix = args.output.suffix.lower()
    if suffix not in (".onnx", ".pth"):
        parser.error(f"--output {args.output} must end in .onnx or .pth")
    if os.path.realpath(args.output) == os.path.realpath(args.ckpt) or args.output.is_dir():
        parser.error(f"--output {args.output} is the checkpoint or a folder; choose another name")
    if suffix == ".pth":
        for name in ("size", "images", "precision", "output_kind"):
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} is for .onnx files, but --output is {args.output}")
    elif missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        parser.error(f"{' and '.join(missing)} not installed: pip install {' '.join(NEEDED)}")
    if args.images and not args.images.is_dir():
        parser.error(f"--images {args.images} is not a folder")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse(argv)
    try:
        model = pretrained.load_checkpoint(args.ckpt, name=args.model)
        is_slim = args.output.suffix.lower() == ".pth"
        content = slim(model) if is_slim else checked_onnx(model, args)
        write(args.output, content)
    except (ValueError, OSError) as error:
        print(f"network.export: error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {len(content) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
