"""How the images of a folder are divided in training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DataError, Folder
from datasets.folder.pairs import find_labels

VALUES = np.array([[0, 1, 2, 255, 1, 0]] * 4, dtype=np.uint8)


def flat(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        for folder, pixels in (("images", VALUES[..., None].repeat(3, -1)), ("labels", VALUES)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_val_fraction(tmp_path: Path) -> None:
    names = [f"{folder}/{number:02d}" for folder in ("x", "y") for number in range(20)]
    flat(tmp_path, names)
    train, val = (Folder(tmp_path, split, val_fraction=0.1) for split in ("train", "val"))
    assert len(val) == 4 and sorted(train.names + val.names) == names
    note = "no split folders: 4 of 40 images validate (--val_fraction 0.1, by name)"
    assert train.notes == val.notes == [note]
    assert np.array_equal(val.load(0)[1], VALUES)
    # What `printf x/16 | b2sum` and the like say, so the same on every machine.
    assert val.names == ["x/16", "y/08", "y/11", "y/16"]
    # More images move few of the old: here none of them becomes a training image.
    flat(tmp_path, [f"z/{number}" for number in range(20)])
    assert set(val.names) <= set(Folder(tmp_path, "val", val_fraction=0.2).names)
    sizes = [len(Folder(tmp_path, "val", val_fraction=f)) for f in (1e-6, 0.25, 0.999999)]
    assert sizes == [1, 15, 59]


def test_val_fraction_needs_two_images_and_a_fraction(tmp_path: Path) -> None:
    flat(tmp_path, ["a"])
    with pytest.raises(ValueError, match="1 image cannot be divided"):
        Folder(tmp_path)
    flat(tmp_path, ["b"])
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="--val_fraction must be between 0 and 1"):
            Folder(tmp_path, val_fraction=fraction)
    with pytest.raises(
        FileNotFoundError, match="no folder .*test; make it, or pass a --split_file"
    ):
        Folder(tmp_path, "test")


def test_split_file(tmp_path: Path) -> None:
    names = ["a", "b c", "train/d", "é", "f", "g"]
    flat(tmp_path, names)  # train/ is there, and the file is what counts
    path = tmp_path / "split.txt"
    lines = "\ufefftrain a\r\n# comment\r\n\r\nval\t b c \r\nval train/d\r\ntrain e\u0301\r\n"
    path.write_bytes(lines.encode())
    train, val = (Folder(tmp_path, split, split_file=path) for split in ("train", "val"))
    assert train.names == ["a", "é"] and val.names == ["b c", "train/d"]
    assert train.notes == [
        f"split by {path}: 2 train, 2 val, 0 test",
        f"left out: 2 images that it does not list, the first: {tmp_path / 'images/f.png'}",
    ]
    with pytest.raises(ValueError, match="has no line `test NAME`"):
        Folder(tmp_path, "test", split_file=path)
    path.write_text("train a\ntest f\ntest g\n")
    assert np.array_equal(Folder(tmp_path, "test", split_file=path).load(1)[1], VALUES)
    for name in "fg":
        (tmp_path / f"labels/{name}.png").unlink()
    assert (Folder(tmp_path, "test", split_file=path).load(1)[1] == 255).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train a\ntrian b\n", "line 2 is 'trian b'; allowed: train NAME, val NAME, test NAME"),
        (b"train a\n\nval\n", "line 3 is 'val'; allowed"),
        (b"train a\nval x\n", "line 2: no image has the name 'x'$"),
        (b"train a\nval .\n", "line 2: no image has the name '.'$"),
        (b"train a\nval b.png\n", "line 2: no image .* 'b.png'; its name is 'b', without suffix"),
        (b"train a\nval b\nval a\n", "line 3: 'a' is also in line 1"),
        (b"train \xe4\n", "is not UTF-8"),
        (b"val b\n", "has no line `train NAME`"),
        (None, "no split file .*split.txt; give a file with lines like `train NAME`"),
    ],
)
def test_mistakes_in_a_split_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "split.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Folder(flat(tmp_path, ["a", "b"]), split_file=path)
    assert str(path) in one_line(caught.value)


def paths(*names: str) -> dict[str, Path]:
    return {name: Path(f"{name}.png") for name in names}


def test_one_label_without_the_others_ending_is_the_only_one_missing() -> None:
    images = paths("1", "2", "10", "100")
    with pytest.raises(FileNotFoundError) as caught:
        find_labels(images, paths("1_mask", "10_mask", "100_mask"), place=Path("labels"))
    assert one_line(caught.value).startswith(
        "1 of 4 images have no label, the first: 2.png (searched for labels/2_mask.*), and 0 "
    )
    # A lone plain label among masks is the one that is wrong.
    labels = paths("1", "2_mask", "10_mask", "100_mask")
    with pytest.raises(FileNotFoundError, match="the first: 1.png .*/1_mask.*and 1 labels have"):
        find_labels(images, labels, place=Path("labels"))


def test_the_label_of_image_10_is_not_that_of_image_1() -> None:
    images, labels = paths("1", "2", "3"), paths("1", *(str(i) for i in range(10, 40)))
    with pytest.raises(FileNotFoundError, match="2 of 3 images have no label, the first: 2.png"):
        find_labels(images, labels, place=Path("labels"))


def test_two_kinds_of_labels_are_an_error_though_one_is_missing() -> None:
    names = ("a", "b", "c", "d")
    labels = paths(*(f"{n}_mask" for n in names), *(f"{n}_color" for n in names[:3]))
    with pytest.raises(DataError, match="endings '_color' and '_mask' in labels; keep one"):
        find_labels(paths(*names), labels, place=Path("labels"))
    # A stray one is none.
    labels = paths(*(f"{n}_mask" for n in names), "a_color")
    found = find_labels(paths(*names), labels, place=Path("labels"))
    assert found["d"] == Path("d_mask.png")


def test_a_fraction_beside_split_folders_is_said_to_do_nothing(tmp_path: Path) -> None:
    flat(tmp_path, ["train/a", "val/b"])
    assert Folder(tmp_path, val_fraction=0.1).notes == []
    note = f"--val_fraction has no effect: {tmp_path / 'images'} has split folders"
    for split in ("train", "val"):
        assert Folder(tmp_path, split, val_fraction=0.2).notes == [note]
