"""Masks and validation results as image files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from .figures import overlay


def save_mask(path: Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids (H,W) uint8 as a PNG that holds the ids and shows the palette's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    temporary = path.with_name(f".{os.getpid()}.tmp")  # short: the name may be as long as allowed
    image.save(temporary, format="PNG")
    os.replace(temporary, path)


def save_result(
    folder: Path,
    name: str,
    *,
    image: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    palette: np.ndarray,
) -> None:
    """Write ``<name>_image.png``, ``_target.png``, ``_pred.png`` and ``_overlay.png``.

    ``image`` is (H,W,3) uint8, ``target`` and ``prediction`` class ids (H,W) uint8. A ``/`` in
    ``name`` makes a folder.
    """
    save_mask(folder / f"{name}_target.png", target, palette)
    save_mask(folder / f"{name}_pred.png", prediction, palette)
    Image.fromarray(image).save(folder / f"{name}_image.png")
    Image.fromarray(overlay(image, prediction, palette)).save(folder / f"{name}_overlay.png")
