"""What the label files of a folder may hold: values or colors, in many kinds of files."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DataError, Folder, class_facts

SIZE = (4, 6)  # H, W


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(path)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def save(root: Path, label: Image.Image, classes: str, name: str = "a.png") -> Path:
    """A training set of one sample."""
    save_image(root / "images/train/a.png")
    (root / "labels/train").mkdir(parents=True, exist_ok=True)
    label.save(root / "labels/train" / name)
    (root / "classes.csv").write_text(classes)
    return root


def gray(values: Sequence[int], dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.array([values] * 4, dtype=dtype))


def rgb(*colors: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.array([colors] * 4, dtype=np.uint8))


def palette(values: Sequence[int], *colors: tuple[int, int, int]) -> Image.Image:
    image = gray(values)
    full = [*colors, *[(7, 7, 7)] * (256 - len(colors))]
    image.putpalette([channel for color in full for channel in color])
    assert image.mode == "P"
    return image


NAMES = "name\na\nb\nc\n"
MASK = "name,value\nbackground,0\nobject,255\n"
SPARSE = "name,value\na,7\nb,9;20\nignored,0-3\n"
BLACK, RED, BLUE, WHITE = (0, 0, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255)
COLORS = "name,color\nred,#ff0000\nblue,#0000ff\nignored,#000000\n"
BOTH = "name,color,value\nred,#ff0000,5\nblue,#0000ff,6\n"
X = 255
RBXX = [0, 1, 255, 255, 0, 0]
CELL = "name,color\ncell,#ffffff\nground,#000000\n"
GRAYS = "name,color\na,#808080\nb,#ffffff\nignored,#000000\n"


@pytest.mark.parametrize(
    ("label", "classes", "expected"),
    [
        (gray([0, 1, 2, 255, 1, 0]), NAMES, [0, 1, 2, X, 1, 0]),
        (gray([0, 1, 2, 255, 1, 0], np.uint16), NAMES, [0, 1, 2, X, 1, 0]),
        (palette([0, 1, 2, 255, 1, 0], WHITE, RED, RED), NAMES, [0, 1, 2, X, 1, 0]),
        (gray([0, 255, 255, 0, 0, 0]), MASK, [0, 1, 1, 0, 0, 0]),
        (gray([0, 255, 255, 0, 0, 0], np.uint16), MASK, [0, 1, 1, 0, 0, 0]),
        (gray([0, 255, 255, 0, 0, 0], np.bool_), MASK, [0, 1, 1, 0, 0, 0]),
        (gray([0, 1, 1, 0, 0, 0], np.bool_), NAMES, [0, 1, 1, 0, 0, 0]),
        (gray([7, 9, 20, 255, 0, 3]), SPARSE, [0, 1, 1, X, X, X]),
        (rgb(RED, BLUE, BLACK, BLACK, RED, RED), COLORS, RBXX),
        (rgb(*[(*c, 0) for c in (RED, BLUE, BLACK, BLACK, RED, RED)]), COLORS, RBXX),
        (rgb(RED, BLUE, BLUE, RED, RED, RED), BOTH, [0, 1, 1, 0, 0, 0]),
        (gray([5, 6, 255, 255, 5, 5]), BOTH, RBXX),
        # The palette is that of the class list: values, and 255 has no color.
        (palette([0, 1, 255, 255, 0, 0], RED, BLUE), COLORS, RBXX),
        # Any program's palette.
        (palette([2, 0, 1, 1, 2, 2], BLUE, BLACK, RED), COLORS, RBXX),
        # Stated values count, whatever the palette shows.
        (palette([5, 6, 6, 5, 5, 5], *[RED] * 5, BLUE, RED), BOTH, [0, 1, 1, 0, 0, 0]),
        (gray([5, 6, 6, 5, 5, 255]), BOTH + "white,#ffffff,7\n", [0, 1, 1, 0, 0, X]),
        # Masks of the colors that the list gives, not of values.
        (gray([0, 255, 255, 0, 0, 0]), CELL, [1, 0, 0, 1, 1, 1]),
        (gray([0, 255, 255, 0, 0, 0], np.bool_), CELL, [1, 0, 0, 1, 1, 1]),
        (gray([128, 255, 0, 0, 128, 128]), GRAYS, [0, 1, X, X, 0, 0]),
        # 1 is no color of the list; and black could be a value or a color.
        (gray([0, 1, 255, 0, 0, 0]), CELL, [0, 1, X, 0, 0, 0]),
        (gray([0, 0, 0, 0, 0, 0]), CELL, [0] * 6),
        # 255 is ignored either way, so nothing speaks for colors.
        (
            gray([0, 255, 0, 0, 0, 0]),
            "name,color\na,#808080\nb,#000000\nignored,#ffffff\n",
            [0, X, 0, 0, 0, 0],
        ),
    ],
)
def test_kinds_of_labels(
    tmp_path: Path, label: Image.Image, classes: str, expected: list[int]
) -> None:
    data = Folder(save(tmp_path, label, classes))
    got = data.load(0)[1]
    assert got.dtype == np.uint8 and got.tolist() == [expected] * 4


def test_color_labels_that_were_shrunk(tmp_path: Path) -> None:
    # What has few colors, or none, a shrinking program makes a palette or gray file.
    save(tmp_path, rgb(*[RED] * 6), COLORS.replace("ignored", "ground"))
    save_image(tmp_path / "images/train/b.png")
    save_image(tmp_path / "images/train/c.png")
    palette([0, 1, 0, 1, 1, 1], BLUE, RED).save(tmp_path / "labels/train/b.png")
    gray([0] * 6).save(tmp_path / "labels/train/c.png")
    data = Folder(tmp_path)
    labels = [data.load(index)[1][0].tolist() for index in range(3)]
    assert labels == [[0] * 6, [1, 0, 1, 0, 0, 0], [2] * 6]


def test_palettes_that_differ_from_file_to_file(tmp_path: Path) -> None:
    # The first ones agree with the list by chance.
    root = save(tmp_path, palette([0, 1] * 3, RED, BLUE), COLORS)
    for name in "bcde":
        save_image(root / f"images/train/{name}.png")
        first, second = (BLUE, RED) if name == "e" else (RED, BLUE)
        palette([0, 1] * 3, first, second).save(root / f"labels/train/{name}.png")
    data = Folder(root)
    assert [data.load(i)[1][0].tolist() for i in (0, 3, 4)] == [[0, 1] * 3] * 2 + [[1, 0] * 3]


def test_a_black_file_of_one_bit_among_values_is_a_value(tmp_path: Path) -> None:
    root = save(tmp_path, gray([0] * 6, np.bool_), CELL)
    save_image(root / "images/train/b.png")
    gray([0, 1, 0, 0, 0, 1]).save(root / "labels/train/b.png")
    data = Folder(root)
    assert [data.load(i)[1][0].tolist() for i in (0, 1)] == [[0] * 6, [0, 1, 0, 0, 0, 1]]


def test_a_palette_that_agrees_with_the_list_leaves_255_ignored(tmp_path: Path) -> None:
    root = save(tmp_path, palette([0, 1, 2, 0, 0, 0], RED, BLUE, BLACK), COLORS)
    save_image(root / "images/train/b.png")
    palette([0, 1, 255, 2, 0, 0], RED, BLUE, BLACK).save(root / "labels/train/b.png")
    data = Folder(root)
    assert data.facts.colors is None
    assert [data.load(i)[1][0].tolist() for i in range(2)] == [[0, 1, 255, 0, 0, 0], RBXX]


@pytest.mark.filterwarnings("error::UserWarning")
def test_transparency_of_a_palette_does_not_matter(tmp_path: Path) -> None:
    label = palette([2, 0, 1, 1, 2, 2], BLUE, BLACK, RED)
    label.info["transparency"] = bytes([0, 128, 255] * 80)
    root = save(tmp_path, label, COLORS)
    with Image.open(root / "labels/train/a.png") as saved:
        assert "transparency" in saved.info
    assert Folder(root).load(0)[1].tolist() == [RBXX] * 4


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (
            gray([0, 1, 2, 3, 9, 300], np.uint16),
            NAMES,
            "values 3, 9, 300 are not classes; allowed: 0..2 ",
        ),
        (
            gray([0, 1, 2, -1, 70000, 0], np.int32),
            NAMES,
            "values -1, 70000 are not classes; allowed: 0..2 and",
        ),
        (gray([0, 1, 1, 0, 0, 0], np.bool_), SPARSE.replace("0-3", "0"), "value 1 is not a class"),
        (
            rgb(RED, BLUE, (1, 2, 3), (1, 2, 3), (4, 4, 4), (4, 4, 5)),
            COLORS,
            r"color \(1, 2, 3\) is not a class; it has 8 pixels, the first at x 2, y 0; "
            r"2 other colors are not classes either; allowed: "
            r"\(255, 0, 0\), \(0, 0, 255\), \(0, 0, 0\)$",
        ),
    ],
)
def test_what_is_no_class_is_named(
    tmp_path: Path, label: Image.Image, classes: str, message: str
) -> None:
    data = Folder(save(tmp_path, label, classes, "a.tif"))
    with pytest.raises(DataError, match=message) as caught:
        data.load(0)
    assert one_line(caught.value).startswith(f"label {tmp_path / 'labels/train/a.tif'}: ")


def test_jpeg_labels_get_a_hint(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, SIZE)
    label = Image.fromarray((noise * 255).astype(np.uint8)).convert("RGB")
    white = COLORS + "ground,#ffffff\n"
    with pytest.raises(DataError, match="JPEG changes values: save labels as PNG"):
        Folder(save(tmp_path, label, white, "a.jpg")).load(0)


def test_colors_must_be_in_the_list(tmp_path: Path) -> None:
    root = save(tmp_path, rgb(RED, BLUE, BLUE, RED, RED, RED), NAMES)
    with pytest.raises(DataError) as caught:
        Folder(root)
    line = one_line(caught.value)
    assert f"label {root / 'labels/train/a.png'} holds colors, but {root / 'classes.csv'}" in line
    assert line.endswith("the first labels hold #0000ff, #ff0000")


def test_modes_that_are_no_colors(tmp_path: Path) -> None:
    root = save(tmp_path, rgb(*[RED] * 6), COLORS)
    save_image(root / "images/train/b.png")
    Image.new("CMYK", SIZE[::-1]).save(root / "labels/train/b.tif")
    with pytest.raises(DataError, match=r"label .*b\.tif has mode CMYK; allowed: RGB, RGBA"):
        Folder(root).load(1)


def test_damaged_labels_do_not_stop_the_look_at_them(tmp_path: Path) -> None:
    root = save(tmp_path, rgb(*[RED] * 6), COLORS)
    (root / "labels/train/0.png").write_bytes(b"no picture")
    save_image(root / "images/train/0.png")
    data = Folder(root)
    assert (data.load(1)[1] == 0).all()
    with pytest.raises(DataError, match=r"cannot read .*0\.png"):
        data.load(0)


def test_facts_are_those_of_the_instance(tmp_path: Path) -> None:
    first = Folder(save(tmp_path / "1", gray([7, 9, 20, 255, 0, 3]), SPARSE))
    second = Folder(save(tmp_path / "2", rgb(*[RED] * 6), COLORS))
    assert (first.class_names, second.class_names) == (("a", "b"), ("red", "blue"))
    assert first.facts.colors is None and second.facts.colors == {RED: 0, BLUE: 1, BLACK: 255}
    assert first.facts.encode(np.array([[7, 20, 255, 3]])).tolist() == [[0, 1, 255, 255]]
    assert second.facts.decode(np.array([0, 1])).tolist() == [[255, 0, 0], [0, 0, 255]]
    facts = class_facts("folder", tmp_path / "1")
    assert facts.class_names == ("a", "b") and facts.colors is None
    assert np.array_equal(facts.label_table, first.facts.label_table)
    assert class_facts("folder", tmp_path / "2").colors == second.facts.colors
    copy = pickle.loads(pickle.dumps(second))
    assert copy.facts.colors == second.facts.colors and (copy.load(0)[1] == 0).all()
