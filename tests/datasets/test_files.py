"""Reading: every kind of picture that is good, and every kind of damage that must be named."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from datasets.base import FileDataset, SampleKey
from datasets.facts import ClassFacts, make_label_table, make_palette
from datasets.files import (
    DataError,
    data_error_line,
    describe_wrong,
    image_size,
    is_turned,
    read_image,
    read_label,
)

KINDS = ("jpg", "progressive.jpg", "png", "alpha.png", "16.png", "tif", "lzw.tif", "webp", "bmp")
LABEL_KINDS = ("label.png", "palette label.png", "palette label.gif")
TABLE = make_label_table({0: 0, 1: 1, 2: 2, 3: 3})


class Four(FileDataset):
    facts = ClassFacts(
        ("a", "b", "c", "d"), make_palette([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)]), TABLE
    )


def refusal(image: Path, label: Path) -> str:
    """The one line that a damaged pair is answered with."""
    with pytest.raises(DataError) as caught:
        Four([image], [label], ["one"])[0]
    line = str(caught.value)
    assert "\n" not in line and data_error_line(caught.value) == line
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_good_images_are_read(kind: str, pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(pictures[kind])
    plain = Image.open(io.BytesIO(pictures["bmp"]))
    expected = np.asarray(plain.convert("L").convert("RGB") if "16" in kind else plain)
    difference = np.abs(np.asarray(read_image(path)).astype(int) - expected).mean()
    assert difference <= (12 if "jpg" in kind or "webp" in kind else 0)  # lossy formats
    assert image_size(path) == (64, 48)


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_good_labels_are_read(kind: str, pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(pictures[kind])
    expected = np.random.default_rng(1).integers(0, 4, (48, 64), dtype=np.uint8)
    assert np.array_equal(read_label(path, TABLE), expected)


def test_names_with_spaces_other_scripts_and_links(pair: tuple[Path, Path]) -> None:
    image, label = pair[0].with_name("verknüpft 1.png"), pair[1].with_name("verknüpft 2.png")
    image.symlink_to(pair[0].name)
    label.symlink_to(pair[1])
    plain, linked = Four([pair[0]], [pair[1]], ["x"]), Four([image], [label], ["x"])
    assert np.array_equal(linked.load(0)[0], plain.load(0)[0])
    assert np.array_equal(linked.load(0)[1], plain.load(0)[1])
    pair[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 1 label files are missing.*{label.name}"):
        Four([image], [label], ["x"])


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (10, 20, 30, 0), [10, 20, 30]),
        ("L", 77, [77, 77, 77]),
        ("LA", (77, 0), [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("I;16", 0x4D12, [0x4D, 0x4D, 0x4D]),
    ],
)
def test_images_of_any_mode_are_rgb(
    tmp_path: Path, mode: str, color: object, expected: list[int]
) -> None:
    Image.new(mode, (6, 4), color).save(tmp_path / "x.png")
    pixels = np.asarray(read_image(tmp_path / "x.png"))
    assert pixels.shape == (4, 6, 3) and (pixels == expected).all()


def test_float_images_are_refused(tmp_path: Path) -> None:
    Image.new("F", (6, 4), 0.5).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x.tif holds floating-point pixels"):
        read_image(tmp_path / "x.tif")


def test_exif_orientation_is_left_alone(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees for display
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (6, 4)
    assert read_image(tmp_path / "x.jpg", upright=True).size == (4, 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_label_modes_that_hold_no_ids(pair: tuple[Path, Path], mode: str) -> None:
    Image.new(mode, (64, 48)).save(pair[1])
    line = refusal(*pair)
    assert str(pair[1]) in line and f"mode {mode}" in line


def test_values_that_are_no_class_are_named(pair: tuple[Path, Path]) -> None:
    Image.fromarray(np.array([[0, 1, 254, 7, 3, 255]] * 4, dtype=np.uint8)).save(pair[1])
    assert f"{pair[1]}: values 7, 254 are not classes; allowed: 0..3 and 255" in refusal(*pair)


@pytest.mark.parametrize(
    ("train_ids", "allowed"),
    [
        ({0: 0, 1: 1}, "0..1 and 255 (ignored)"),
        ({0: 0, 255: 1}, "0, 255"),  # a mask: white is a class
        ({7: 0, 8: 1, 0: 255, 1: 255}, "7..8 and 0..1, 255 (ignored)"),
    ],
)
def test_what_is_allowed_is_what_the_table_says(train_ids: dict[int, int], allowed: str) -> None:
    line = describe_wrong([9], make_label_table(train_ids))
    assert line == f"value 9 is not a class; allowed: {allowed}"


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_files_that_are_to_be_shown_turned(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    for orientation in (None, 1, 6):
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        Image.new("RGB", (6, 4)).save(path, exif=exif)
        assert is_turned(path) == (orientation == 6)
    path.write_bytes(b"no picture")
    assert not is_turned(path)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["text", "empty", "folder", "cut"])
def test_what_is_no_picture_is_named(pair: tuple[Path, Path], which: int, damage: str) -> None:
    data, path = Four([pair[0]], [pair[1]], ["one"]), pair[which]
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        bad = {"cut": content[: len(content) // 2], "text": b"not a picture", "empty": b""}
        path.write_bytes(bad[damage])
    with pytest.raises(DataError) as caught:
        data.load(0)
    line = str(caught.value)
    assert line.startswith(f"cannot read {path}: ") and "\n" not in line
    assert line.count(path.name) == 1 and "object at 0x" not in line


@pytest.mark.parametrize("kind", [*KINDS, *LABEL_KINDS])
@pytest.mark.parametrize("lost", [0.02, 0.3, 0.95])
def test_cut_files_are_refused(
    kind: str, lost: float, pair: tuple[Path, Path], pictures: dict[str, bytes]
) -> None:
    path = pair[kind in LABEL_KINDS]
    path.write_bytes(pictures[kind][: int(len(pictures[kind]) * (1 - lost))])
    assert refusal(*pair).startswith(f"cannot read {path}: ")


def test_png_checksums_are_looked_at(pair: tuple[Path, Path]) -> None:
    """Damage anywhere in the pixels' chunk, its checksum included, which no decoder needs."""
    content = pair[0].read_bytes()
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    for place in (start + 2, start + length // 2, start + length - 1, start + length):
        damaged = bytearray(content)
        damaged[place] ^= 4
        pair[0].write_bytes(damaged)
        assert refusal(*pair).startswith(f"cannot read {pair[0]}: ")


@pytest.mark.parametrize("kind", ["jpg", "progressive.jpg"])
def test_pixels_that_a_jpeg_cannot_hold(
    kind: str, tmp_path: Path, pictures: dict[str, bytes]
) -> None:
    """libjpeg would make up what is missing."""
    content = bytearray(pictures[kind])
    start = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[start + 5 : start + 9] = struct.pack(">HH", 2000, 3000)
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"x.jpg: .* 3000x2000, which {len(content)} bytes"):
        read_image(tmp_path / "x.jpg")


def test_pictures_of_many_pixels(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Pillow warns of twice as many as its limit, and refuses more; they are 64 x 48 here."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2)
    assert read_image(pair[0]).size == image_size(pair[0]) == (64, 48)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2 - 1)
    assert refusal(*pair) == (
        f"cannot read {pair[0]}: its header says more than 3070 pixels; "
        "cut so large an image into tiles"
    )


def test_what_pillow_logs_is_not_printed() -> None:
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("PIL").handlers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_error_in_mid_epoch_names_the_file(
    workers: int, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    """The error comes out of the loader after the good batches before it."""
    images = [tmp_path / f"{number}.png" for number in range(8)]
    for path in images:
        path.write_bytes(pictures["png"])
    data = Four(images, None, [path.stem for path in images])
    images[5].unlink()  # after the data set looked for it
    order = [[SampleKey(0, i, i), SampleKey(0, i + 1, i + 1)] for i in range(0, 8, 2)]
    batches = iter(DataLoader(data, batch_sampler=order, num_workers=workers))
    for _ in range(2):
        next(batches)
    line = ""
    # The traceback would keep the loader alive until the garbage collector, which it makes wait.
    try:
        next(batches)
    except DataError as error:
        line = data_error_line(error.with_traceback(None))
    assert line == f"cannot read {images[5]}: No such file or directory"
