"""Reading image and label files of all types that Pillow knows; errors name the bad file."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.facts import NO_CLASS, Color, describe_wrong
from utils.runtime.files import open_regular
from utils.utils import IGNORE_INDEX

# Pillow logs oddities in files; without a handler Python would print them to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# So does the library for TIFF, on its own; a file that cannot be read is named by a DataError.
with suppress(AttributeError, OSError):  # other builds of Pillow have it elsewhere
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class DataError(ValueError):
    """A file of the data set cannot be used; the message is one line and names the file."""


def data_error_line(error: BaseException) -> str:
    """The one line of a DataError, even if it was raised in a loader process.

    The main process raises it again with the traceback as its text; the last such line is ours.
    """
    lines = re.findall(r"^(?:[\w.]+\.)?DataError: (.*)$", str(error), flags=re.MULTILINE)
    return lines[-1] if lines else str(error)


def read_image(path: Path, *, upright: bool = False) -> Image.Image:
    """RGB image of a file of any mode; drops alpha, and scales 16-bit gray to 8 bits.

    Only with `upright` is the EXIF orientation applied: labels belong to the stored pixels.
    """
    image = open_image(path)
    if upright and (turn := _turn(image)) is not None:
        image = image.transpose(turn)
    if image.mode == "F":
        raise DataError(f"{path} holds floating-point pixels of unknown range; save it with 8 bits")
    try:
        if image.mode.startswith("I"):  # 16-bit gray; convert() would clip it, not scale it
            gray = np.clip(np.asarray(image).astype(np.int32), 0, 65535) >> 8
            image = Image.fromarray(gray.astype(np.uint8))
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")
    except Exception as error:  # a damaged palette or transparency shows only here
        mode = image.mode
        raise DataError(f"cannot convert {path} to RGB (mode {mode}): {_reason(error)}") from error


# EXIF orientation -> what turns the image upright.
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
    """What the EXIF orientation asks for; a block that cannot be read asks for nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged blocks make the parser raise nearly anything
        return None


def is_turned(path: Path) -> bool:
    """Whether the header of the file asks viewers to turn or mirror the image."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file)
            # In a PNG without "exif", getexif() would decode all pixels to search behind them.
            return (image.format != "PNG" or "exif" in image.info) and _turn(image) is not None
    except Exception:  # a damaged file is reported when it is loaded
        return False


def is_lossy(path: Path) -> bool:
    """Whether the header says that the file was compressed by changing its pixels a little."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file)
            in_tiff = str(image.info.get("compression"))
            return image.format in ("JPEG", "MPO", "AVIF") or in_tiff in ("jpeg", "tiff_jpeg")
    except Exception:  # a damaged file is reported when it is loaded
        return False


# Modes of labels with colors: tools that shrink files turn RGB into palette or gray.
COLOR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1")


def read_label(
    path: Path, table: np.ndarray, *, colors: Mapping[Color, int] | None = None
) -> np.ndarray:
    """Label (H, W) uint8 in train ids; a value or color that is not a class is a DataError.

    The file holds one channel of values or palette indices, which `table` (256,) maps, or colors,
    which `colors` maps if it is given. White in a one-bit file is the value 1, or 255 where that is
    a class and 1 is not.
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
        # For a palette image this is the histogram of its indices.
        present = [value for value, count in enumerate(label.histogram()) if count]
    else:
        raise DataError(
            f"label {path} has mode {label.mode}; allowed is one channel of class ids (gray or "
            "palette indices), or colors if the class list gives them"
        )
    wrong = [v for v in present if not 0 <= v <= 255 or table[v] == NO_CLASS]
    if wrong:
        raise DataError(f"label {path}: {describe_wrong(wrong, table)}{_jpeg_hint(label)}")
    if label.mode in ("L", "P"):
        # point() maps palette indices; convert("L") would turn them into brightness.
        return np.asarray(label.point((table & 255).tolist(), "L"))
    return table[values].astype(np.uint8)


def white_value(table: np.ndarray) -> int:
    """The value that white in a one-bit file stands for."""
    return 255 if table[1] == NO_CLASS and table[255] != IGNORE_INDEX else 1


def _train_ids_of_colors(path: Path, label: Image.Image, colors: Mapping[Color, int]) -> np.ndarray:
    if label.mode not in COLOR_MODES:
        raise DataError(f"label {path} has mode {label.mode}; allowed: {', '.join(COLOR_MODES)}")
    try:
        if label.mode == "P" and "transparency" in label.info:
            label_rgb = label.convert("RGBA").convert("RGB")
        else:
            label_rgb = label.convert("RGB")
    except Exception as error:  # a damaged palette shows only here
        raise DataError(f"cannot convert {path} to RGB: {_reason(error)}") from error
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
    """Table (2^24,) uint16: red << 16 | green << 8 | blue -> train id + 1, or 0 for no class."""
    table = np.zeros(1 << 24, dtype=np.uint16)  # uses memory only where it is touched
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
        f"color {(int(code >> 16), int(code >> 8 & 255), int(code & 255))} is not a class; it has "
        f"{np.count_nonzero(codes == code)} pixels, the first at x {x}, y {y}"
        f"{f'; {others} other colors are not classes either' if others else ''}; allowed: {allowed}"
    )


def _jpeg_hint(label: Image.Image) -> str:
    return " (JPEG changes values: save labels as PNG)" if label.format == "JPEG" else ""


def open_image(path: Path) -> Image.Image:
    """The decoded image; DataError names a file that cannot be read. Warnings are ignored."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file)
            _check_header(image, os.fstat(file.fileno()).st_size)
            if image.format == "PNG":
                image.verify()  # load() does not check the checksums of the pixels
                file.seek(0)
                image = Image.open(file)
            image.load()
            return image
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in the header of the file, without decoding; DataError without one."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(file).size
    except Exception as error:
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


def _check_header(image: Image.Image, num_bytes: int) -> None:
    """Refuse a JPEG that is too short for the size in its header; libjpeg would make up pixels.

    Every 8x8 block takes at least one bit. The other decoders notice it themselves.
    """
    if image.format == "JPEG" and image.width * image.height > 64 * 8 * num_bytes:
        size = f"{image.width}x{image.height}"
        raise ValueError(f"the header says {size}, which {num_bytes} bytes cannot hold")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"its header says more than {limit} pixels; cut so large an image into tiles"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # str() would repeat the name of the file
    return " ".join(str(error).split()) or type(error).__name__
