"""Masks and validation results as image files."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path

import numpy as np
from PIL import Image

from .figures import overlay


def save_image(path: Path, image: Image.Image) -> None:
    """Write a .jpg or .png under a temporary name and rename it: whole, or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short: the name itself may be as long as allowed. Random: other nodes write here too.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    buffer = io.BytesIO()  # Pillow, writing to files itself, misses that a disk got full
    if path.suffix == ".jpg":
        image.save(buffer, format="JPEG", quality=92)
    else:
        image.save(buffer, format="PNG")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_mask(path: Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids (H,W) uint8 as a PNG that holds the ids and shows the palette's colours."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    save_image(path, image)


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
    save_image(folder / f"{name}_image.png", Image.fromarray(image))
    blended = overlay(image, prediction, palette)
    save_image(folder / f"{name}_overlay.png", Image.fromarray(blended))
