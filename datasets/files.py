"""Reading image and label files, of any type that Pillow knows, and naming the file that is bad."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.facts import NO_CLASS, Color, describe_wrong
from utils.utils import IGNORE_INDEX

# Pillow logs what it finds odd in a file; without any handler that would go to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class DataError(ValueError):
    """A file of the data set that cannot be used; the message is one line and names the file."""


def data_error_line(error: BaseException) -> str:
    """The one line of a DataError, also of one that came from a DataLoader worker.

    A worker's error is raised again in the main process with the whole traceback as its text; the
    original line is then the last one.
    """
    lines = re.findall(r"^(?:[\w.]+\.)?DataError: (.*)$", str(error), flags=re.MULTILINE)
    return lines[-1] if lines else str(error)


def read_image(path: Path, *, upright: bool = False) -> Image.Image:
    """RGB image of a file of any mode; alpha is dropped, 16 bit grey scaled to 8.

    Without `upright` the pixels come as stored: labels have no EXIF orientation.
    """
    image = open_image(path)
    if upright:
        image = _upright(image)
    if image.mode == "F":
        raise DataError(f"{path} holds floating-point pixels, whose range is unknown; use 8 bits")
    try:
        if image.mode.startswith("I"):  # 16 bit grey; convert() would clip, not scale
            grey = np.clip(np.asarray(image).astype(np.int32), 0, 65535) >> 8
            image = Image.fromarray(grey.astype(np.uint8))
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")
    # A damaged palette or transparency is found only here.
    except Exception as error:
        mode = image.mode
        raise DataError(f"cannot make RGB of {path} (mode {mode}): {_reason(error)}") from error


# EXIF orientation -> what shows the image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What the EXIF orientation asks for; a block that can't be read says nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return UPRIGHT.get(image.getexif().get(0x0112))
    # Damaged blocks make the parser raise nearly anything.
    except Exception:
        return None


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def is_turned(path: Path) -> bool:
    """Whether the file says, in its header, that it is to be shown turned or mirrored."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file)
            # Of a PNG without it, getexif() would decode the pixels to look behind them.
            return (image.format != "PNG" or "exif" in image.info) and _turn(image) is not None
    except Exception:  # a damaged file is named when it is loaded
        return False


# What a label with colours may be: tools that shrink files make palette and grey files of RGB.
COLOR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1")


def read_label(
    path: Path, table: np.ndarray, *, colors: Mapping[Color, int] | None = None
) -> np.ndarray:
    """Label (H, W) uint8 in train ids; what is no class is an error.

    The file holds one channel of values or palette indices that `table` (256,) maps, or, where
    `colors` is given, colours that it maps. White of a file of one bit is the value 1, or 255 where
    that is a class and 1 is none.
    """
    label = open_image(path)
    if colors is not None:
        return _train_ids_of_colors(path, label, colors)
    if label.mode.startswith("I"):  # 16 or 32 bit
        values = np.asarray(label)
        present = np.unique(values).tolist()
    elif label.mode == "1":
        values = np.asarray(label) * np.uint8(white_value(table))
        present = np.unique(values).tolist()
    elif label.mode in ("L", "P"):
        # The histogram is of the indices, for a palette image.
        present = [value for value, count in enumerate(label.histogram()) if count]
    else:
        raise DataError(
            f"label {path} has mode {label.mode}; allowed is one channel of class ids (grey, or "
            "palette indices), or colours where the class list gives them"
        )
    wrong = [v for v in present if not 0 <= v <= 255 or table[v] == NO_CLASS]
    if wrong:
        raise DataError(f"label {path}: {describe_wrong(wrong, table)}{_jpeg_hint(label)}")
    if label.mode in ("L", "P"):
        # point() maps palette indices, where convert("L") would turn them into brightness.
        return np.asarray(label.point((table & 255).tolist(), "L"))
    return table[values].astype(np.uint8)


def white_value(table: np.ndarray) -> int:
    """The value that white of a file of one bit is, where values count."""
    return 255 if table[1] == NO_CLASS and table[255] != IGNORE_INDEX else 1


def _train_ids_of_colors(path: Path, label: Image.Image, colors: Mapping[Color, int]) -> np.ndarray:
    if label.mode not in COLOR_MODES:
        raise DataError(f"label {path} has mode {label.mode}; allowed: {', '.join(COLOR_MODES)}")
    try:
        if label.mode == "P" and "transparency" in label.info:
            label_rgb = label.convert("RGBA").convert("RGB")
        else:
            label_rgb = label.convert("RGB")
    except Exception as error:  # a damaged palette is found only here
        raise DataError(f"cannot make RGB of {path}: {_reason(error)}") from error
    pixels = np.asarray(label_rgb)
    codes = np.left_shift(pixels[..., 0], 16, dtype=np.int32)
    codes |= np.left_shift(pixels[..., 1], 8, dtype=np.int32)
    codes |= pixels[..., 2]
    found = _color_table(tuple(sorted(colors.items())))[codes]
    if not found.all():
        raise DataError(
            f"label {path}: {_describe_wrong_colors(codes, found == 0, colors)}{_jpeg_hint(label)}"
        )
    return (found - 1).astype(np.uint8)


@lru_cache(maxsize=2)
def _color_table(colors: tuple[tuple[Color, int], ...]) -> np.ndarray:
    """Table (2^24,) uint16 from red << 16 | green << 8 | blue to train id + 1; 0 is no class."""
    table = np.zeros(1 << 24, dtype=np.uint16)  # takes memory only where it is read or written
    for (red, green, blue), train_id in colors:
        table[red << 16 | green << 8 | blue] = train_id + 1
    return table


def _describe_wrong_colors(
    codes: np.ndarray, wrong: np.ndarray, colors: Mapping[Color, int]
) -> str:
    y, x = np.unravel_index(int(wrong.argmax()), wrong.shape)
    code = codes[y, x]
    others = len(np.unique(codes[wrong])) - 1
    allowed = ", ".join(map(str, list(colors)[:8])) + (", ..." if len(colors) > 8 else "")
    return (
        f"no class: color {(int(code >> 16), int(code >> 8 & 255), int(code & 255))} of "
        f"{np.count_nonzero(codes == code)} pixels, the first at x {x}, y {y}"
        f"{f', and {others} more' if others else ''}; allowed: {allowed}"
    )


def _jpeg_hint(label: Image.Image) -> str:
    return " (JPEG changes values: save labels as PNG)" if label.format == "JPEG" else ""


def open_image(path: Path) -> Image.Image:
    """The decoded picture, or a DataError that names the file; what is odd but readable is read."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file)
            _check_header(image, os.fstat(file.fileno()).st_size)
            if image.format == "PNG":
                image.verify()  # load() does not look at the checksums of the pixels
                file.seek(0)
                image = Image.open(file)
            image.load()
            return image
    # Damaged files make decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as the file's header says, without decoding; DataError if it can't be."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(file).size
    except Exception as error:
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


def _check_header(image: Image.Image, num_bytes: int) -> None:
    """Refuse a JPEG whose header promises pixels the file can't hold: libjpeg would make them up.

    Every 8x8 block takes one bit at least. The other decoders notice it themselves.
    """
    if image.format == "JPEG" and image.width * image.height > 64 * 8 * num_bytes:
        raise ValueError(f"{num_bytes} bytes can't hold the {image.width}x{image.height} it claims")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"it claims over {2 * Image.MAX_IMAGE_PIXELS} pixels; cut a picture that big in tiles"
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # str() would name the file again
    return " ".join(str(error).split()) or type(error).__name__
