"""Pictures of images and labels: made as arrays, (H, W, 3) uint8, and saved as PNG or JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.runtime.console import shortened
from utils.runtime.files import write_bytes
from utils.utils import IGNORE_INDEX

from .colors import WRONG, rgb

FONT_SIZE = 14
LINE = 24  # height of a line of text
GRAY = (118, 118, 118)
IGNORED = "ignored, in the error map"  # overlays leave these pixels as they are
ROWS = 16  # mixed at a time, so that their numbers stay in a core's cache


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    *,
    alpha: float = 0.5,
    contours: bool = False,
) -> np.ndarray:
    """Mix label colors into an image (H, W, 3) uint8; pixels with the ignored label stay as is.

    `labels` is (H, W), `palette` (256, 3) uint8, and `alpha`, 0..1, the share of the label color.
    With `contours` the borders between classes have the full color.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(
            f"image {image.shape} and labels {labels.shape} differ; give (H, W, 3) and (H, W)"
        )
    colors = np.asarray(mask(labels, palette).convert("RGB"))
    mixed = np.empty_like(image)
    for top in range(0, len(image), ROWS):
        rows = slice(top, top + ROWS)
        part = image[rows] * np.float32(1 - alpha)
        part += colors[rows] * np.float32(alpha)
        mixed[rows] = np.rint(part, out=part)
    if contours:
        np.copyto(mixed, colors, where=borders(labels)[..., None])
    if (ignored := labels == IGNORE_INDEX).any():
        np.copyto(mixed, image, where=ignored[..., None])
    return mixed


def borders(labels: np.ndarray) -> np.ndarray:
    """Which pixels of (H, W) have another label beside or below them: bool (H, W)."""
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


def error_map(image: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image pale, its wrong pixels vermilion and its ignored ones white: (H, W, 3) uint8."""
    gray = image.mean(axis=2, keepdims=True)
    pale = np.repeat((0.35 * gray + 150).astype(np.uint8), 3, axis=2)
    pale[target != prediction] = rgb(WRONG)
    pale[target == IGNORE_INDEX] = 255
    return pale


def text_line(text: str, width: int) -> np.ndarray:
    """A line of text on white, (24, width, 3) uint8; what does not fit loses its middle."""
    line = Image.new("RGB", (width, LINE), "white")
    ImageDraw.Draw(line).text((0, 3), fitted(text, width), fill="black", font=font())
    return np.asarray(line)


def legend(
    class_names: Sequence[str], palette: np.ndarray, ids: Sequence[int], width: int
) -> np.ndarray:
    """Color and name of the classes `ids` in lines of `width` pixels: (H, width, 3) uint8.

    255 stands for ignored pixels, which are white in error maps only.
    """
    names = [fitted(IGNORED if i == IGNORE_INDEX else class_names[i], width - 40) for i in ids]
    places, x, y = [], 0, 0
    for name in names:
        needed = 40 + int(font().getlength(name))
        if x and x + needed > width:
            x, y = 0, y + LINE
        places.append((x, y))
        x += needed
    strip = Image.new("RGB", (width, y + LINE), "white")
    draw = ImageDraw.Draw(strip)
    for class_id, name, (x, y) in zip(ids, names, places, strict=True):
        color = (255,) * 3 if class_id == IGNORE_INDEX else tuple(palette[class_id].tolist())
        draw.rectangle((x, y + 4, x + 15, y + 19), fill=color, outline=GRAY)
        draw.text((x + 21, y + 3), name, fill="black", font=font())
    return np.asarray(strip)


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The one font of all pictures."""
    return ImageFont.load_default(FONT_SIZE)


def fitted(text: str, width: int) -> str:
    """The text; if it is wider than `width` pixels, without its middle."""
    kept = min(len(text), width)  # a letter is at least one pixel wide
    face, shown = font(), shortened(text, kept)
    while face.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = shortened(text, kept)
    return shown


def side_by_side(images: Sequence[np.ndarray], *, gap: int = 6) -> np.ndarray:
    """Join images (H, W, 3) uint8 of one height from left to right, `gap` white pixels apart."""
    spacer = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (spacer, image)]
    return np.concatenate(parts[1:], axis=1)


def encoded(
    image: np.ndarray | Image.Image, kind: str, *, quality: int = 92, optimize: bool = False
) -> bytes:
    """An image, (H, W, 3) or (H, W) uint8 or Pillow's, as a file of the kind "PNG" or "JPEG"."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=quality, optimize=optimize)
    return buffer.getvalue()


def data_uri(image: np.ndarray, kind: str, *, quality: int) -> str:
    """An image, (H, W, 3) or (H, W) uint8, as the address of an <img>."""
    data = encoded(image, kind, quality=quality, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


def save_image(path: Path, image: np.ndarray | Image.Image) -> None:
    """Write an image, (H, W, 3) uint8 or Pillow's, atomically: as JPEG for .jpg, else as PNG."""
    write_bytes(path, encoded(image, "JPEG" if path.suffix == ".jpg" else "PNG"))


def mask(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A picture that holds class ids (H, W) uint8, and shows the palette's colors."""
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture


def save_mask(path: Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids (H, W) uint8 as a PNG that holds the ids and shows the palette's colors."""
    save_image(path, mask(labels, palette))


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
