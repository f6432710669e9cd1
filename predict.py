"""Segment an image, or every image in a folder, with a trained network.

    python predict.py --input IMAGE_OR_FOLDER --ckpt checkpoints/best_....pth
    python predict.py --input FOLDER --ckpt FILE --output masks --overlay

The checkpoint contains the network's name, classes, colors and normalization. Each mask is a PNG
that holds class ids and shows their colors; masks are in the same folders as the images were. An
image that can't be read is named and skipped, and the exit code is then 1. Checkpoints of
VainF/DeepLabV3Plus-Pytorch contain weights only: give --model, --dataset and --output_stride, too.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports, so that Ctrl-C during them is one line, too
    from utils.runtime.signals import end_on_interrupt

    end_on_interrupt()

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import datasets
import network
from datasets.image_finder import find_images
from network.inference import folded, predict_labels
from utils import options
from utils.runtime import distributed
from utils.runtime.console import list_names, say
from utils.runtime.memory import is_out_of_memory, keep_freed_memory
from utils.runtime.precision import AUTOCAST_DTYPES, autocast, set_float32_precision
from utils.runtime.signals import one_interrupt
from utils.visualizer import plain_warnings
from utils.visualizer.pictures import overlay, save_image, save_mask


def plan_outputs(images: Sequence[Path], folder: Path | None, output: Path) -> list[Path]:
    """The mask's path for each image: its place and name below `output`, as a PNG.

    Images whose names differ only in the suffix keep it: a.jpg gives a.jpg.png, a.png a.png.png.
    """
    places = [image.relative_to(folder) if folder else Path(image.name) for image in images]
    # Names are compared without case, as some file systems do.
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
    """The overlay's path beside the mask `target`."""
    return target.with_name(f"{target.stem}_overlay.jpg")


def check_outputs(
    images: Sequence[Path], targets: Sequence[Path], *, replace: bool, with_overlay: bool
) -> None:
    """Raise ValueError if an input, or without `replace` any other file, would be overwritten."""
    written = [*targets, *(overlay_path(target) for target in targets if with_overlay)]
    existing = [path for path in written if path.exists()]
    if replace:
        inputs = {os.path.realpath(image) for image in images}
        existing = [path for path in existing if os.path.realpath(path) in inputs]
    if existing:
        names = list_names([str(path) for path in existing], shown=3)
        raise ValueError(f"files would be overwritten: {names}; choose another --output")


def load_model(
    opts: options.PredictOptions, old: options.PredecessorOptions
) -> tuple[network.DeepLabV3, bool]:
    """The network of `--ckpt`, and whether its weights were averaged over training.

    It has class names and a palette; for a checkpoint of the predecessor, those of `--dataset`.
    """
    content = network.pretrained.read_file(opts.ckpt)
    is_ours = "model_name" in content
    if is_ours and old.model not in (None, content["model_name"]):
        raise ValueError(f"{opts.ckpt} holds {content['model_name']}, not --model {old.model}")
    model = network.pretrained.rebuild(
        content,
        source=opts.ckpt,
        name=old.model or (None if is_ours else "deeplabv3plus_mobilenet"),
        output_stride=old.output_stride,
    )
    if is_ours:
        if old.separable_conv and not model.build_args["separable_conv"]:
            raise ValueError(f"{opts.ckpt} has no separable convolutions; drop --separable_conv")
        return model, network.pretrained.has_average(content)
    dataset, num_classes = old.dataset or "voc", model.build_args["num_classes"]
    facts = datasets.DATASETS[dataset].facts
    if network.pretrained.is_misbuilt(model):
        say(network.pretrained.MISBUILT)
    elif num_classes != len(facts.class_names):
        raise ValueError(
            f"{opts.ckpt} has {num_classes} classes, but --dataset {dataset} has "
            f"{len(facts.class_names)}; give the --dataset that it was trained on"
        )
    model.class_names, model.palette = facts.class_names[:num_classes], facts.palette
    return model, network.pretrained.has_average(content)


def read_rgb(path: Path, crop_size: int | None) -> np.ndarray:
    """The image upright, (H, W, 3) uint8; with `crop_size` resized and center-cropped to it."""
    image = datasets.files.read_image(path, upright=True)
    if crop_size is not None:
        scale = crop_size / min(image.size)
        image = image.resize([max(crop_size, round(side * scale)) for side in image.size])
        left, top = (image.width - crop_size) // 2, (image.height - crop_size) // 2
        image = image.crop((left, top, left + crop_size, top + crop_size))
    return np.array(image)


def read_ahead(sources: Sequence[Path], crop_size: int | None) -> Iterator[Future[np.ndarray]]:
    """The images of `sources` in order; the next is decoded while the caller works on one."""
    with ThreadPoolExecutor(1) as reader:
        image = reader.submit(read_rgb, sources[0], crop_size)
        for source in sources[1:]:
            next_image = reader.submit(read_rgb, source, crop_size)
            yield image
            image = next_image
        yield image


def prepare(
    opts: options.PredictOptions, old: options.PredecessorOptions
) -> tuple[network.DeepLabV3, torch.device, list[tuple[Path, Path]]]:
    """Check everything and load the network, before anything is written.

    Returns the network, its device, and for each image its path and its mask's path.
    """
    source, output = Path(opts.input), Path(old.save_val_results_to or opts.output)
    hint = "start one predict.py per GPU, each with its own part of the images"
    device = distributed.pick_device(opts.device, opts.gpu_id, local_rank=0, torchrun_hint=hint)
    if device.type == "cpu":
        keep_freed_memory()
    set_float32_precision(opts.precision)
    if not source.exists():
        raise FileNotFoundError(f"--input {source} does not exist")
    if source.is_dir() and os.path.realpath(source) == os.path.realpath(output):
        raise ValueError(f"--output {output} is the input folder; choose another")
    is_folder = source.is_dir()
    images, others = find_images(source, leave_out=output) if is_folder else ([source], [])
    if not images:
        raise ValueError(
            f"no image in {source}: it holds {len(others)} files, none with an image's suffix"
        )
    if others:
        say(f"{len(others)} files in {source} do not have an image's suffix; they are left out")
    targets = plan_outputs(images, source if is_folder else None, output)
    replace = old.save_val_results_to is not None
    check_outputs(images, targets, replace=replace, with_overlay=opts.overlay)
    model, is_averaged = load_model(opts, old)
    model = folded(model, conv_dtype=AUTOCAST_DTYPES.get(opts.precision)).to(device)
    name = f"{model.name} with averaged weights" if is_averaged else model.name
    num_classes = model.build_args["num_classes"]
    say(f"{name}, {num_classes} classes, on {device}: {len(images)} images")
    return model, device, list(zip(images, targets, strict=True))


def predict_all(
    model: network.DeepLabV3,
    device: torch.device,
    jobs: Sequence[tuple[Path, Path]],
    opts: options.PredictOptions,
) -> Iterator[str]:
    """Write the masks of all `jobs`; yields a line for each image that could not be read."""
    palette = model.palette
    assert palette is not None  # load_model sees to it
    crop_size = opts.crop_size if opts.crop_val else None
    images = read_ahead([source for source, _ in jobs], crop_size)
    for (_, target), coming in zip(tqdm(jobs, unit="image", disable=None), images, strict=True):
        try:
            image = coming.result()
        except datasets.DataError as error:
            yield f"skipped: {error}"
            continue
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        with autocast(device, opts.precision):
            batch = model.normalize(batch).contiguous(memory_format=torch.channels_last)
            labels = predict_labels(model, batch, tile=opts.val_tile)[0].cpu().numpy()
        save_mask(target, labels, palette)
        if opts.overlay:
            save_image(overlay_path(target), overlay(image, labels, palette))


def get_argparser() -> argparse.ArgumentParser:
    """The parser of the options, as in the predecessor."""
    return options.predict_parser()


@one_interrupt()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        opts, old = options.parse_predict(argv)
        plain_warnings()
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
        say("predict.py: interrupted; all masks written so far are complete", error=True)
        return 130
    folder = old.save_val_results_to or opts.output
    say(f"{len(jobs) - skipped} masks in {folder}" + (f", {skipped} skipped" if skipped else ""))
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
