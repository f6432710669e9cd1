"""How fast are training samples made? Prints each step beside the predecessor's, and images/s.

python -m benchmarks.data [--rounds 20] [--voc ROOT] [--cityscapes ROOT] [--cpu_time]

One sample, one process, one thread: VOC at crop 513 (JPEG 500x375, random scale 0.5-2), Cityscapes
at crop 768 (PNG 1024x2048, color jitter; random scale here only, the predecessor has none), read
from the files and from --cache. The predecessor's steps are re-created from its documented recipe:
PIL on the whole picture, torchvision's jitter on PIL, ToTensor and Normalize, labels encoded last.
Here a batch is uint8 and normalized on the device. All take the same files in turn, so a slow
moment of the machine falls on all: trust the ratio. Files are synthetic unless folders are given;
they are read before, so the disk's speed is left out.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from datasets import create_dataset
from datasets.base import FileDataset
from datasets.loader import (
    SampleCache,
    TrainSampler,
    train_loader,
)
from utils.ext_transforms import train_transform

STEPS = ("decode", "geometry", "color", "hand-over")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIB = 2**20


@dataclass(frozen=True)
class Task:
    """One row group of the table."""

    dataset: str
    crop: int
    jitter: float
    scale: tuple[float, float] | None  # the predecessor's


TASKS = (Task("voc", 513, 0.0, (0.5, 2.0)), Task("cityscapes", 768, 0.5, None))


class Clock:
    """Milliseconds of each step of a sample, by name."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.times: dict[str, float] = dict.fromkeys(STEPS, 0.0)
        self._last = self.now()

    def __call__(self, step: str) -> None:
        """The time since the last call was this step's."""
        now = self.now()
        self.times[step] += 1000 * (now - self._last)
        self._last = now


def scene(height: int, width: int, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Picture like a road scene: smooth areas, edges and a camera's noise."""
    rows = np.linspace(90, 160, height, dtype=np.float32)[:, None, None]
    coarse = rng.normal(0, 35, (height // 64, width // 64, 3)).astype(np.float32)
    fine = rng.normal(0, 12, (height // 8, width // 8, 3)).astype(np.float32)
    blocks = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    detail = cv2.resize(fine, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, noise, (height, width, 3))
    return (rows + blocks + detail + grain).clip(0, 255).astype(np.uint8)


def regions(height: int, width: int, rng: np.random.Generator, num_values: int) -> np.ndarray:
    small = rng.integers(0, num_values, (height // 64, width // 64), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def make_voc(root: Path, count: int, *, size: tuple[int, int] = (375, 500)) -> Path:
    """VOC's layout with JPEGs of quality 95; the first also validates."""
    base, rng = root / "VOCdevkit/VOC2012", np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    names = [f"2012_{number:06}" for number in range(count)]
    for name in names:
        image = Image.fromarray(scene(*size, rng, 3.0))
        image.save(base / f"JPEGImages/{name}.jpg", quality=95)
        label = Image.fromarray(regions(*size, rng, 21))
        label.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tolist())
        label.save(base / f"SegmentationClass/{name}.png")
    for split, listed in (("train", names), ("val", names[:1])):
        (base / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(listed))
    return root


def make_cityscapes(root: Path, count: int, *, size: tuple[int, int] = (1024, 2048)) -> Path:
    """Cityscapes' layout with PNGs, about 2.6 MB each, and one more that validates."""
    rng = np.random.default_rng(0)
    for number in range(count + 1):
        town = "train/town" if number < count else "val/town"
        images, labels = root / "leftImg8bit" / town, root / "gtFine" / town
        for place in (images, labels):
            place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(scene(*size, rng, 1.3))
        image.save(images / f"town_{number:06}_leftImg8bit.png")
        label = Image.fromarray(regions(*size, rng, 34))
        label.save(labels / f"town_{number:06}_gtFine_labelIds.png")
    return root


def predecessor(dataset: FileDataset, task: Task) -> Callable[[int, Clock], Any]:
    """Its sample, step by step; the crop and the scale are drawn as it does."""
    crop = task.crop
    jitter = transforms.ColorJitter(task.jitter, task.jitter, task.jitter)
    table = dataset.facts.label_table.astype(np.uint8)

    def pad(picture: Image.Image) -> Image.Image:
        for missing in (crop - picture.width, crop - picture.height):
            if missing > 0:
                picture = functional.pad(picture, int((1 + missing) / 2))
        return picture

    def sample(index: int, clock: Clock) -> Any:
        assert dataset.labels is not None
        image = Image.open(dataset.images[index]).convert("RGB")
        label: Image.Image = Image.open(dataset.labels[index])
        label.load()
        clock("decode")
        if task.scale:
            factor = random.uniform(*task.scale)
            size = [int(side * factor) for side in (image.height, image.width)]
            image = functional.resize(image, size, transforms.InterpolationMode.BILINEAR)
            label = functional.resize(label, size, transforms.InterpolationMode.NEAREST)
        image, label = pad(image), pad(label)
        top = random.randint(0, image.height - crop)
        left = random.randint(0, image.width - crop)
        image, label = (functional.crop(p, top, left, crop, crop) for p in (image, label))
        clock("geometry")
        if task.jitter:
            image = jitter(image)
        clock("color")
        if random.random() < 0.5:
            image, label = functional.hflip(image), functional.hflip(label)
        clock("geometry")
        pixels = functional.normalize(functional.to_tensor(image), MEAN, STD)
        ids = torch.from_numpy(np.array(label, dtype=np.uint8))
        if task.dataset == "cityscapes":  # VOC's labels are train ids
            ids = torch.from_numpy(table[ids.numpy()])
        clock("hand-over")
        return pixels, ids

    return sample


def ours(dataset: FileDataset, task: Task) -> Callable[[int, Clock], Any]:
    """The same of this project; labels are encoded where they are read."""
    augment = train_transform(task.crop, color_jitter=task.jitter)
    steps = ("geometry", "color", "geometry", "hand-over")
    rng = np.random.default_rng(0)

    def sample(index: int, clock: Clock) -> Any:
        pair = dataset.load(index)
        clock("decode")
        for step, transform in zip(steps, augment.transforms, strict=True):
            pair = transform(*pair, rng)
            clock(step)
        return pair

    return sample


def measure(
    cases: dict[str, Callable[[int, Clock], Any]], num_samples: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Times of the cases, in turn on the same samples."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for number in range(-min(num_samples, 4), rounds):
        for name, case in cases.items():
            clock = Clock()
            case(number % num_samples, clock)
            if number >= 0:  # before, it warms up
                found[name].append(clock.times)
    return found


def print_table(title: str, found: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{title}, ms a sample, medians")
    heads = "".join(f"{step:>11}" for step in (*STEPS, "total"))
    print(f"{'':22}{heads}{'10 %..90 %':>18}{'ratio':>8}")
    totals = {name: [sum(t.values()) for t in times] for name, times in found.items()}
    base = totals["predecessor"]
    for name, times in found.items():
        steps = "".join(f"{statistics.median(t[s] for t in times):11.2f}" for s in STEPS)
        spread = "{:.2f}..{:.2f}".format(*np.percentile(totals[name], (10, 90)))
        ratio = statistics.median(b / t for b, t in zip(base, totals[name], strict=True))
        print(f"{name:22}{steps}{statistics.median(totals[name]):11.2f}{spread:>18}{ratio:7.2f}x")


def images_per_second(dataset: FileDataset, num_workers: int, num_batches: int) -> float:
    """Of the training loader, batches of 4; what its processes need to start is left out."""
    warm_up = 2 * num_workers + 1
    settings = {"seed": 0, "start_step": 0, "total_steps": num_batches + warm_up}
    sampler = TrainSampler(len(dataset), 4, **settings)
    loader = train_loader(dataset, sampler, num_workers=num_workers, pin_memory=False)
    for number, _ in enumerate(loader, 1):
        if number == warm_up:
            begin = time.perf_counter()
    return 4 * num_batches / (time.perf_counter() - begin)


def run(task: Task, root: Path, cache: Path, rounds: int) -> None:
    """Print the tables of one task on the data set in `root`."""

    def build() -> FileDataset:
        transform = train_transform(task.crop, color_jitter=task.jitter)
        made = create_dataset(task.dataset, "train", root=root, transform=transform, seed=0)
        assert isinstance(made, FileDataset)
        return made

    plain, cached = build(), build()
    cached.cache = SampleCache(cache / task.dataset, cached)
    for index in range(min(len(cached), rounds)):
        cached.load(index)
    cases = {
        "predecessor": predecessor(plain, task),
        "ours": ours(plain, task),
        "ours, --cache": ours(cached, task),
    }
    sizes = [path.stat().st_size / MIB for path in plain.images]
    title = f"{task.dataset}, crop {task.crop}, {statistics.mean(sizes):.2f} MiB a file"
    print_table(title, measure(cases, len(plain), rounds))
    for name, dataset in (("files", plain), ("--cache", cached)):
        speeds = [images_per_second(dataset, n, max(2, rounds // 4)) for n in (0, 1, 2)]
        shown = ", ".join(f"{n}: {speed:.0f}" for n, speed in enumerate(speeds))
        print(f"loader from {name}, images/s by number of workers: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="samples of each case")
    parser.add_argument("--files", type=int, default=8, help="synthetic files of each data set")
    parser.add_argument("--voc", type=Path, help="folder with VOCdevkit/")
    parser.add_argument("--cityscapes", type=Path, help="folder with leftImg8bit/ and gtFine/")
    parser.add_argument(
        "--cpu_time", action="store_true", help="count the CPU's time, where others use it too"
    )
    options = parser.parse_args()
    if options.cpu_time:
        Clock.now = staticmethod(time.thread_time)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, 1 thread, {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for task, make in zip(TASKS, (make_voc, make_cityscapes), strict=True):
            given = getattr(options, task.dataset)
            root = given or make(folder / f"made_{task.dataset}", options.files)
            run(task, root, folder / "cache", options.rounds)


if __name__ == "__main__":
    main()
