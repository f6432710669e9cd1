"""Image and label files that are missing, or do not fit each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DataError, create_dataset
from datasets.base import FileDataset
from datasets.facts import ClassFacts, make_label_table, make_palette

VALUES = np.array([[0, 1, 0, 255, 1, 0]] * 4, dtype=np.uint8)


class TwoClasses(FileDataset):
    facts = ClassFacts(
        ("no", "yes"), make_palette([(0, 0, 0), (255, 255, 255)]), make_label_table({0: 0, 1: 1})
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    Image.new("RGB", (6, 4)).save(image)
    Image.fromarray(VALUES).save(label)
    return image, label


def dataset(pair: tuple[Path, Path]) -> TwoClasses:
    return TwoClasses([pair[0]], [pair[1]], ["one"])


def flat(root: Path, names: list[str]) -> None:
    for name in names:
        for folder, pixels in (("images", VALUES[..., None].repeat(3, -1)), ("labels", VALUES)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / "classes.txt").write_text("no\nyes\n")


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_transposed_sizes_get_a_hint_at_the_orientation(pair: tuple[Path, Path]) -> None:
    hint = "; the image has an EXIF orientation, and the label must fit the stored pixels"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = pair[0].with_suffix(".jpg")
    Image.new("RGB", (6, 4)).save(photo, exif=exif)
    Image.new("L", (4, 6)).save(pair[1])
    with pytest.raises(DataError) as caught:
        dataset((photo, pair[1])).load(0)
    assert one_line(caught.value) == (
        f"sizes differ: image {photo} is 6x4, its label {pair[1]} is 4x6{hint}"
    )
    with pytest.raises(DataError, match="is 4x6$"):
        dataset(pair).load(0)  # no orientation
    Image.new("L", (5, 4)).save(pair[1])
    with pytest.raises(DataError, match="is 5x4$"):
        dataset((photo, pair[1])).load(0)


def test_missing_files_may_be_left_to_loading(pair: tuple[Path, Path]) -> None:
    gone, link = pair[0].with_name("gone.png"), pair[0].with_name("link.png")
    link.symlink_to(gone)
    pairs = [(gone, pair[1]), pair, (pair[0], link)]
    images, labels = map(list, zip(*pairs, strict=True))
    data = TwoClasses(images, labels, ["a", "b", "c"], allow_missing=True)
    assert data.load(1)[1].shape == (4, 6)
    for index, path in ((0, gone), (2, link)):
        with pytest.raises(DataError, match=f"cannot read {path}: No such file or directory$"):
            data.load(index)
    del images[1], labels[1]
    with pytest.raises(
        FileNotFoundError, match=f"1 of 2 image files are missing, the first: {gone}"
    ):
        TwoClasses(images, labels, ["a", "c"], allow_missing=True)


@pytest.mark.parametrize("layout", ["split folders", "fraction", "split file"])
def test_images_without_label_may_be_skipped(tmp_path: Path, layout: str) -> None:
    folder = "train/" if layout == "split folders" else ""
    flat(tmp_path, [f"{folder}{name}" for name in "abcdef"] + ["val/v"] * bool(folder))
    split_file = tmp_path / "split.txt"
    split_file.write_text("".join(f"train {name}\n" for name in "abcde") + "val f\n")
    options = {"split_file": str(split_file) if layout == "split file" else None}
    source = {"root": tmp_path, "options": options}
    name = create_dataset("folder", "train", **source).names[1]
    label, linked = (tmp_path / f"labels/{folder}{n}.png" for n in (name, "a"))
    label.unlink()
    linked.unlink()
    linked.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="1 of . images have no label"):
        create_dataset("folder", "train", **source)
    data = create_dataset("folder", "train", **source, allow_missing=True)
    for bad, path in ((name, label.with_suffix(".*")), ("a", linked)):
        with pytest.raises(DataError) as caught:
            data.load(data.names.index(bad))
        assert one_line(caught.value) == f"cannot read {path}: No such file or directory"
    assert np.array_equal(data.load(2)[1], VALUES)
    for path in (tmp_path / "labels").rglob("*.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="images have no label"):
        create_dataset("folder", "train", **source, allow_missing=True)
