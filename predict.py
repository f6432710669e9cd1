"""Segment images with a trained network.

    python predict.py --input IMAGE_OR_FOLDER --ckpt checkpoints/best_....pth
    python predict.py --input FOLDER --ckpt FILE --output masks --overlay
    python predict.py --input FOLDER --ckpt FILE --flip --scales 0.75 1 1.25 --labels FOLDER

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
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import datasets
from datasets.cityscapes import Cityscapes
from datasets.loader import available_cores
from network.inference import folded
from utils import options, prediction
from utils.prediction import Job, Work
from utils.runtime import distributed
from utils.runtime.console import say
from utils.runtime.memory import is_out_of_memory, keep_freed_memory
from utils.runtime.precision import AUTOCAST_DTYPES, set_float32_precision
from utils.runtime.signals import one_interrupt
from utils.visualizer import plain_warnings

MAX_THREADS = 16  # more only wait for each other in Python
# What an ONNX file has settled.
NOT_FOR_ONNX = {"precision", "flip", "scales", "val_tile"}
NOT_FOR_ONNX |= {"model", "dataset", "separable_conv", "output_stride"}


@dataclass
class Prepared:
    """Everything that was checked and loaded before the first image."""

    device: prediction.Device
    num_threads: int
    planned: list[Job]
    jobs: list[Job]  # those of `planned` that are left to do
    outputs: prediction.Outputs
    scores: prediction.Scores | None
    problems: list[str]  # a line for each image or folder that is left out


def plan_jobs(opts: options.PredictOptions, *, may_replace: bool) -> tuple[list[Job], list[str]]:
    """All images with their files, and the problems; refuses to overwrite what it must not."""
    for name in ("summary", "labels"):
        if opts.resume and getattr(opts, name):
            raise ValueError(f"--{name} is over all images, but --resume leaves some out")
    kinds = prediction.kinds_of(opts)
    sources = prediction.find_sources(opts.input, outputs=[folder for folder, _ in kinds.values()])
    if sources.others:
        say(f"{len(sources.others)} files do not have an image's suffix; they are left out")
    jobs, too_long = prediction.plan(sources, kinds)
    extra = [Path(path) for path in (opts.summary, opts.zip) if path]
    prediction.check_files(
        jobs, sources.images.values(), extra=extra, replace=may_replace or opts.resume
    )
    return jobs, sources.problems + too_long


def load_device(
    opts: options.PredictOptions, old: options.PredecessorOptions, place: torch.device
) -> tuple[prediction.Device, Sequence[str], np.ndarray, str]:
    """What runs the checkpoint or ONNX file; its class names, palette, and what to call it."""
    with_confidence = opts.confidence or opts.summary is not None
    if opts.ckpt.lower().endswith(".onnx"):
        for group in (opts, old):
            for field in fields(group):
                if field.name in NOT_FOR_ONNX and getattr(group, field.name) != field.default:
                    raise ValueError(f"--{field.name} needs a checkpoint instead of an ONNX file")
        onnx = prediction.OnnxDevice(
            opts.ckpt, place, batch_size=opts.batch_size, with_confidence=with_confidence
        )
        return onnx, onnx.class_names, onnx.palette, f"{opts.ckpt} in onnxruntime"
    model, is_averaged = prediction.load_model(opts.ckpt, old)
    assert model.class_names is not None and model.palette is not None  # load_model sees to it
    network = folded(model, conv_dtype=AUTOCAST_DTYPES.get(opts.precision)).to(place)
    device = prediction.TorchDevice(
        network,
        place,
        precision=opts.precision,
        batch_size=opts.batch_size,
        tile=opts.val_tile,
        scales=opts.scales,
        flip=opts.flip,
        with_confidence=with_confidence,
        say=say,
    )
    title = f"{model.name} with averaged weights" if is_averaged else model.name
    return device, model.class_names, model.palette, title


def prepare(opts: options.PredictOptions, old: options.PredecessorOptions) -> Prepared:
    """Check everything and load the network, before anything is written."""
    hint = "start one predict.py per GPU, each with its own part of the images"
    place = distributed.pick_device(opts.device, opts.gpu_id, local_rank=0, torchrun_hint=hint)
    if place.type == "cpu":
        keep_freed_memory()
    set_float32_precision(opts.precision)
    planned, problems = plan_jobs(opts, may_replace=old.save_val_results_to is not None)
    jobs = prediction.missing_only(planned) if opts.resume else planned
    if len(jobs) < len(planned):
        say(f"{len(planned) - len(jobs)} of {len(planned)} images have all their files")
    device, names, palette, title = load_device(opts, old, place)
    if opts.label_ids and names != Cityscapes.facts.class_names:
        raise ValueError(f"--label_ids needs a network with Cityscapes' classes, not {opts.ckpt}")
    scores = prediction.Scores(Path(opts.labels), jobs, names) if opts.labels else None
    say(f"{title}, {len(names)} classes, on {place}: {len(jobs)} images")
    for line in options.without_effect(opts):
        say(line)
    # On a CPU the network has all cores.
    cores = 1 if place.type == "cpu" else min(available_cores(), MAX_THREADS)
    outputs = prediction.Outputs(names, palette, alpha=opts.alpha, contours=opts.contours)
    threads = opts.num_workers or cores
    return Prepared(device, threads, planned, jobs, outputs, scores, problems)


def read_rgb(path: Path, crop_size: int | None) -> np.ndarray:
    """The image upright, (H, W, 3) uint8; with `crop_size` resized and center-cropped to it."""
    image = datasets.files.read_image(path, upright=True)
    if crop_size is not None:
        scale = crop_size / min(image.size)
        image = image.resize([max(crop_size, round(side * scale)) for side in image.size])
        left, top = (image.width - crop_size) // 2, (image.height - crop_size) // 2
        image = image.crop((left, top, left + crop_size, top + crop_size))
    return np.array(image)


def _pixels(size: tuple[int, ...]) -> str:
    """The size (H,W) of an image in words."""
    return f"{size[1]}x{size[0]} pixels"


def predict_all(prepared: Prepared, opts: options.PredictOptions) -> Iterator[Work]:
    """Predict all jobs; yields the images that have no mask, or no score."""
    crop_size = opts.crop_size if opts.crop_val else None
    outputs, scores, clock = prepared.outputs, prepared.scores, prediction.Clock()
    path, num_written = Path(opts.summary) if opts.summary else None, 0

    def read(work: Work) -> None:
        try:
            work.image = read_rgb(work.job.image, crop_size)
        except datasets.DataError as error:
            work.problem = f"skipped: {error}"
            return
        shown, size = work.image.shape[:2], prepared.device.size
        if size not in (None, shown):
            work.problem = f"skipped: {work.job.image} is {_pixels(shown)}; {opts.ckpt} takes "
            work.problem += f"{_pixels(size)} only"

    def write(work: Work) -> None:
        outputs.write(work)
        work.is_written = True
        if scores is not None:
            work.problem = scores.count(work)
        if path is not None:
            work.row = prediction.summary_row(work, len(outputs.class_names))

    threads, device = prepared.num_threads, prepared.device
    with prediction.summary(path, outputs.class_names) as add:
        works = prediction.run(
            prepared.jobs, read=read, device=device, write=write, num_threads=threads, clock=clock
        )
        for work in tqdm(works, total=len(prepared.jobs), unit="image", disable=None):
            num_written += work.is_written
            if work.row:
                add(work.row)
            if work.problem:
                yield work
    say(clock.report(num_written))


def finish(prepared: Prepared, opts: options.PredictOptions) -> None:
    """Print the scores, and pack what the server wants."""
    if prepared.scores is not None:
        say(prepared.scores.report())
    if opts.zip and opts.label_ids:
        masks = [job.files["label_ids"] for job in prepared.planned]
        count = prediction.pack(Path(opts.zip), masks, folder=Path(opts.output))
        say(f"{count} files in {opts.zip}")


def get_argparser() -> argparse.ArgumentParser:
    """The parser of the options, as in the predecessor."""
    return options.predict_parser()


@one_interrupt()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        opts, old = options.parse_predict(argv)
        opts = replace(opts, output=old.save_val_results_to or opts.output)
        plain_warnings()
        prepared = prepare(opts, old)
        without_mask, unscored = 0, 0
        for line in prepared.problems:
            say(f"skipped: {line}", error=True)
        for work in predict_all(prepared, opts):
            say(work.problem, error=True)
            without_mask += not work.is_written
            unscored += work.is_written
        finish(prepared, opts)
    except (ValueError, OSError) as error:
        say(f"predict.py: error: {error}", error=True)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say(f"predict.py: error: {str(error) or 'out of memory'}", error=True)
        return 2
    except KeyboardInterrupt:
        say("predict.py: interrupted; all masks written so far are complete", error=True)
        return 130
    masks, skipped = len(prepared.planned) - without_mask, without_mask + len(prepared.problems)
    say(f"{masks} masks in {opts.output}" + (f", {skipped} skipped" if skipped else ""))
    return 1 if skipped or unscored else 0


if __name__ == "__main__":
    sys.exit(main())
