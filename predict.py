"""Segment an image, or every image in a folder, with a trained network.

    python predict.py --input IMAGE_OR_FOLDER --ckpt checkpoints/best_....pth
    python predict.py --input FOLDER --ckpt FILE --output masks --overlay

The checkpoint says which network it is, its classes, colours and normalisation. Each image gives a
PNG that holds the class ids and shows the colours, in the input's folder structure. An image that
can't be read is named and left out, and the exit code is then 1. Checkpoints of
VainF/DeepLabV3Plus-Pytorch do not say what they are: they need --model, --dataset and
--output_stride as there.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import datasets
import network
from datasets.image_finder import find_images
from network.inference import folded, predict_labels
from utils import distributed, options
from utils.memory import is_out_of_memory, keep_freed_memory
from utils.runtime.console import say
from utils.visualizer import plain_warnings
from utils.visualizer.pictures import overlay, save_image, save_mask

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def plan_outputs(images: Sequence[Path], folder: Path | None, output: Path) -> list[Path]:
    """Where each mask goes: the image's place and name below ``output``, as a PNG.

    Images that differ in their suffix only keep it: a.jpg and a.png give a.jpg.png and a.png.png.
    """
    places = [image.relative_to(folder) if folder else Path(image.name) for image in images]
    # Compared without case, as some file systems do.
    stems = Counter(str(place.with_suffix("")).casefold() for place in places)
    targets: list[Path] = []
    taken: set[str] = set()
    for place in places:
        shared = stems[str(place.with_suffix("")).casefold()] > 1
        target = place.with_name(place.name + ".png") if shared else place.with_suffix(".png")
        while str(target).casefold() in taken:
            target = target.with_name(target.name + ".png")
        taken.add(str(target).casefold())
        targets.append(output / target)
    return targets


def overlay_path(target: Path) -> Path:
    return target.with_name(f"{target.stem}_overlay.jpg")


def check_outputs(
    images: Sequence[Path], targets: Sequence[Path], *, replace: bool, with_overlay: bool
) -> None:
    """Raise ValueError if a file would be replaced that may not be."""
    written = [*targets, *(overlay_path(target) for target in targets if with_overlay)]
    inputs = {os.path.realpath(image) for image in images}
    there = [path for path in written if path.exists()]
    over_input = [path for path in there if os.path.realpath(path) in inputs]
    if over_input or (there and not replace):
        path = (over_input or there)[0]
        raise ValueError(
            f"{path} is there already and would be replaced ({len(there)} such files); "
            "choose another --output"
        )


def load_model(
    opts: options.PredictOptions, old: options.PredecessorOptions
) -> tuple[nn.Module, bool]:
    """The network of ``--ckpt``, with class names, palette and normalisation.

    Also whether its weights are those averaged over training.
    """
    saved = network.pretrained.read_file(opts.ckpt)
    if "model_name" in saved:
        if old.model not in (None, saved["model_name"]):
            raise ValueError(f"{opts.ckpt} holds {saved['model_name']}, not --model {old.model}")
        if old.separable_conv and not saved["build_args"]["separable_conv"]:
            raise ValueError(f"{opts.ckpt} has no separable convolutions; drop --separable_conv")
        changed = {"output_stride": old.output_stride} if old.output_stride else {}
        model = network.load_checkpoint(opts.ckpt, build_args=changed)
        return model, network.pretrained.has_average(saved)
    facts = datasets.DATASETS[old.dataset or "voc"].facts
    model = network.load_checkpoint(
        opts.ckpt,
        name=old.model or "deeplabv3plus_mobilenet",
        build_args={"output_stride": old.output_stride or 16},
    )
    if model.build_args["num_classes"] != len(facts.class_names):
        raise ValueError(
            f"{opts.ckpt} has {model.build_args['num_classes']} classes, --dataset "
            f"{old.dataset or 'voc'} has {len(facts.class_names)}; give the --dataset it is of"
        )
    model.class_names, model.palette = facts.class_names, facts.palette
    return model, False


def read_rgb(path: Path, crop_size: int | None) -> np.ndarray:
    """The image upright, as (H,W,3) uint8; with ``crop_size`` resized and centre-cropped to it."""
    image = datasets.files.read_image(path, upright=True)
    if crop_size is not None:
        scale = crop_size / min(image.size)
        image = image.resize([max(crop_size, round(side * scale)) for side in image.size])
        left, top = (image.width - crop_size) // 2, (image.height - crop_size) // 2
        image = image.crop((left, top, left + crop_size, top + crop_size))
    return np.array(image)


def read_ahead(sources: Sequence[Path], crop_size: int | None) -> Iterator[Future[np.ndarray]]:
    """Each image of ``sources``; the next is decoded while the caller works on one."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read_rgb, sources[0], crop_size)
        for following in sources[1:]:
            image, coming = coming, reader.submit(read_rgb, following, crop_size)
            yield image
        yield coming


def prepare(
    opts: options.PredictOptions, old: options.PredecessorOptions
) -> tuple[nn.Module, torch.device, list[tuple[Path, Path]]]:
    """Check everything and load the network; nothing is written yet."""
    source, output = Path(opts.input), Path(old.save_val_results_to or opts.output)
    hint = "one predict.py per GPU, each on its part of the images"
    device = distributed.pick_device(opts.device, opts.gpu_id, local_rank=0, torchrun_hint=hint)
    if device.type == "cpu":
        keep_freed_memory()
    if not source.exists():
        raise FileNotFoundError(f"--input {source} does not exist")
    if source.is_dir() and os.path.realpath(source) == os.path.realpath(output):
        raise ValueError(f"--output {output} is the input folder; choose another")
    images, others = [source], []
    if source.is_dir():
        images, others = find_images(source, leave_out=output)
    if not images:
        raise ValueError(
            f"no image in {source}: it holds {len(others)} files, none with an image's suffix"
        )
    if others:
        say(f"{len(others)} files in {source} do not have an image's suffix; they are left out")
    targets = plan_outputs(images, source if source.is_dir() else None, output)
    replace = old.save_val_results_to is not None
    check_outputs(images, targets, replace=replace, with_overlay=opts.overlay)
    model, is_averaged = load_model(opts, old)
    model = folded(model, conv_dtype=PRECISIONS.get(opts.precision)).to(device)
    name = f"{model.name} with averaged weights" if is_averaged else model.name
    say(f"{name}, {len(model.class_names)} classes, on {device}: {len(images)} images")
    return model, device, list(zip(images, targets, strict=True))


def predict_all(
    model: nn.Module,
    device: torch.device,
    jobs: Sequence[tuple[Path, Path]],
    opts: options.PredictOptions,
) -> Iterator[str]:
    """Write the masks of all ``jobs``; yields a line for each image that could not be read."""
    crop_size = opts.crop_size if opts.crop_val else None
    dtype = PRECISIONS.get(opts.precision)
    autocast = torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
    coming = read_ahead([source for source, _ in jobs], crop_size)
    for (_, target), decoded in zip(tqdm(jobs, unit="image", disable=None), coming, strict=True):
        try:
            image = decoded.result()
        except datasets.DataError as error:
            yield f"skipped: {error}"
            continue
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        with autocast:
            batch = model.normalize(batch).contiguous(memory_format=torch.channels_last)
            labels = predict_labels(model, batch, tile=opts.val_tile)[0].cpu().numpy()
        save_mask(target, labels, model.palette)
        if opts.overlay:
            save_image(overlay_path(target), overlay(image, labels, model.palette))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    opts, old = options.parse_predict(argv)
    plain_warnings()
    try:
        model, device, jobs = prepare(opts, old)
        skipped = 0
        for line in predict_all(model, device, jobs, opts):
            skipped += 1
            say(line, error=True)
    except (ValueError, OSError) as error:
        say(f"predict.py: error: {error}", error=True)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = max(opts.val_tile // 2, 64) if opts.val_tile else 769
        say(
            f"predict.py: error: out of memory; predict in tiles: --val_tile {smaller}",
            error=True,
        )
        return 2
    except KeyboardInterrupt:
        say("predict.py: interrupted; the masks written so far are whole", error=True)
        return 130
    folder = old.save_val_results_to or opts.output
    say(f"{len(jobs) - skipped} masks in {folder}" + (f", {skipped} skipped" if skipped else ""))
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
