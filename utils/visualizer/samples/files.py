"""The samples in a run's folder, of its first, its best and its last validation.

`samples/<step>.jpg` is a sheet to look at. The folder `samples/<step>/` holds the same as data:
each image, its target and its prediction, and `samples.json` with their names and scores.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Container, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from utils.runtime.files import write_bytes

from ..pictures import save_image, save_mask
from .selection import ValidatedSample, worst_first
from .sheets import sample_sheet


def _step_folder(folder: Path, step: int) -> Path:
    return folder / f"{step:06d}"


def save_samples(
    folder: Path,
    step: int,
    samples: Sequence[ValidatedSample],
    class_names: Sequence[str],
    palette: np.ndarray,
) -> None:
    """Write a validation's samples: a sheet `<step>.jpg`, and the folder `<step>` with the data."""
    target, facts = _step_folder(folder, step), []
    shutil.rmtree(target, ignore_errors=True)
    for number, sample in enumerate(samples):
        stem = f"{number}_{re.sub(r'[^A-Za-z0-9._-]+', '_', sample.name)[:100]}"
        save_image(target / f"{stem}.jpg", sample.image)
        save_mask(target / f"{stem}_target.png", sample.target, palette)
        save_mask(target / f"{stem}_pred.png", sample.prediction, palette)
        numbers = {key: v for key, v in asdict(sample).items() if not isinstance(v, np.ndarray)}
        clean = {k: None if v != v else v for k, v in numbers.items()}  # NaN is not JSON
        facts.append({"file": stem, **clean})
    sheet = sample_sheet(worst_first(samples), class_names, palette)
    save_image(folder / f"{step:06d}.jpg", sheet)
    text = json.dumps(facts, indent=2, allow_nan=False)  # the last file: now all are there
    write_bytes(target / "samples.json", text.encode())


def load_samples(folder: Path, step: int) -> list[ValidatedSample]:
    """The samples that `save_samples` wrote; none if they are not there. ValueError if damaged."""
    source = _step_folder(folder, step)
    path = source / "samples.json"
    if not path.exists():
        return []
    try:
        return [_load(source, fact) for fact in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{source} is damaged ({error}); delete that folder") from error


def _load(source: Path, fact: dict) -> ValidatedSample:
    stem = Path(fact["file"]).name

    def pixels(name: str) -> np.ndarray:
        with Image.open(source / name) as image:
            return np.array(image)

    sample = ValidatedSample(
        name=str(fact["name"]),
        image=pixels(f"{stem}.jpg"),
        target=pixels(f"{stem}_target.png"),
        prediction=pixels(f"{stem}_pred.png"),
        miou=math.nan if fact["miou"] is None else float(fact["miou"]),
        wrong=math.nan if fact["wrong"] is None else float(fact["wrong"]),
        scale=float(fact["scale"]),
        is_fixed=bool(fact["is_fixed"]),
    )
    shapes = {sample.target.shape, sample.prediction.shape, sample.image.shape[:2]}
    if len(shapes) > 1 or sample.image.ndim != 3:
        raise ValueError(f"the pictures of {stem} differ in size")
    return sample


def delete_samples(folder: Path, keep: Container[int] = ()) -> None:
    """Delete the samples of all validations but those at the steps `keep`."""
    for path in folder.glob("*"):
        if re.fullmatch(r"\d{6,}(\.jpg)?", path.name) and int(path.stem) not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
