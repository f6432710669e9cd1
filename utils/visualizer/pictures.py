"""Pictures of images and labels: made as arrays, (H, W, 3) uint8, and saved as PNG or JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from utils.runtime.files import write_bytes
from utils.utils import IGNORE_INDEX


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, *, alpha: float = 0.5
) -> np.ndarray:
    """Mix label colors into an image (H, W, 3) uint8; pixels with the ignored label stay as is.

    `labels` is (H, W), `palette` (256, 3) uint8, and `alpha`, 0..1, the share of the label color.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(
            f"image {image.shape} and labels {labels.shape} differ; give (H, W, 3) and (H, W)"
        )
    mixed = (1 - alpha) * image + alpha * palette[labels]
    ignored = (labels == IGNORE_INDEX)[..., None]
    return np.where(ignored, image, np.rint(mixed).astype(np.uint8))


def side_by_side(images: Sequence[np.ndarray], *, gap: int = 6) -> np.ndarray:
    """Join images (H, W, 3) uint8 of one height from left to right, `gap` white pixels apart."""
    spacer = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (spacer, image)]
    return np.concatenate(parts[1:], axis=1)


def save_image(path: Path, image: np.ndarray | Image.Image) -> None:
    """Write an image, (H, W, 3) uint8 or Pillow's, atomically: as JPEG for .jpg, else as PNG."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()  # Pillow does not notice a full disk when it writes to a file itself
    if path.suffix == ".jpg":
        image.save(buffer, format="JPEG", quality=92)
    else:
        image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def save_mask(path: Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids (H, W) uint8 as a PNG that holds the ids and shows the palette's colors."""
    mask = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    mask.putpalette(palette.astype(np.uint8).tobytes())
    save_image(path, mask)


def save_result(
    folder: Path,
    name: str,
    *,
    image: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    palette: np.ndarray,
) -> None:
    """Write `<name>_image.png`, `_target.png`, `_pred.png` and `_overlay.png`.

    `image` is (H, W, 3) uint8; `target` and `prediction` are class ids, (H, W) uint8. A `/` in
    `name` makes a folder.
    """
    save_mask(folder / f"{name}_target.png", target, palette)
    save_mask(folder / f"{name}_pred.png", prediction, palette)
    save_image(folder / f"{name}_image.png", image)
    save_image(folder / f"{name}_overlay.png", overlay(image, prediction, palette))
