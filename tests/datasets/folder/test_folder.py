"""Data sets of folders: what is found, how it is divided, what label files may hold."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DATASETS, DataError, Folder, create_dataset

SIZE = (4, 6)  # H, W
VALUES = np.array([[0, 1, 2, 255, 1, 0]] * 4, dtype=np.uint8)


def save_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (shade, 20, 30)).save(path)


def save_label(path: Path, values: np.ndarray = VALUES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def put(
    root: Path, images: Sequence[str], labels: Sequence[str], classes: str = "a\nb\nc\n"
) -> Path:
    for number, name in enumerate(images):
        save_image(root / name, number)
    for name in labels:
        save_label(root / name)
    (root / "classes.txt").write_text(classes)
    return root


def flat(root: Path, names: Sequence[str]) -> Path:
    return put(root, [f"images/{n}.png" for n in names], [f"labels/{n}.png" for n in names])


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_split_folders(tmp_path: Path) -> None:
    images = ["images/train/b.jpg", "images/train/city 1/a.PNG", "images/train/häus.v2.tif"]
    root = put(
        tmp_path,
        [*images, "images/val/c.bmp", "images/test/d.webp"],
        ["labels/train/b.png", "labels/train/city 1/a.tif", "labels/train/häus.v2.png"]
        + ["labels/val/c.tiff"],
    )
    train = create_dataset("folder", "train", root=root)
    assert isinstance(train, Folder) and DATASETS["folder"] is Folder
    assert train.names == ["b", "city 1/a", "häus.v2"]
    assert [p.relative_to(root).as_posix() for p in train.images] == images
    for index, shade in enumerate([0, 1, 2]):
        image, label = train.load(index)
        assert abs(int(image[0, 0, 0]) - shade) <= 2  # JPEG
        assert np.array_equal(label, VALUES)
    assert train.notes == []
    val = create_dataset("folder", "val", root=root)
    assert val.names == ["c"] and np.array_equal(val.load(0)[1], VALUES)
    test = create_dataset("folder", "test", root=root)
    assert test.names == ["d"] and (test.load(0)[1] == 255).all()


@pytest.mark.parametrize(
    ("label_folder", "splits", "classes"),
    [
        ("annotations", ("training", "validation"), "ignored\nwall\nbuilding\n"),  # ADE20K
        ("annotations", ("train2017", "val2017"), "person\nbicycle\ncar\n"),  # COCO-Stuff
        ("masks", ("Train", "VAL"), "a\nb\nc\n"),
    ],
)
def test_other_names_of_the_folders(
    tmp_path: Path, label_folder: str, splits: Sequence[str], classes: str
) -> None:
    put(tmp_path, [f"images/{s}/x.jpg" for s in splits], [], classes)
    for split in splits:
        save_label(tmp_path / label_folder / split / "x.png")
    (tmp_path / "labels").mkdir()  # holds no image
    (tmp_path / "labels" / "instances.json").touch()
    data = [Folder(tmp_path, split) for split in ("train", "val")]
    assert [d.names for d in data] == [["x"], ["x"]]
    assert [d.images[0].parent.name for d in data] == list(splits)
    expected = VALUES if "ignored" not in classes else np.array([255, 0, 1])[[0, 1, 2, 0, 1, 0]]
    assert (data[0].load(0)[1] == expected).all()


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    names = ("sub/a.png", "b.png", "c/d.png")
    put(tmp_path / "real", [f"i/{name}" for name in names], [f"l/{name}" for name in names])
    put(tmp_path / "data", ["images/val/v.png"], ["labels/val/v.png"])
    root = tmp_path / "data"
    (root / "images/train").symlink_to(tmp_path / "real/i")
    (root / "labels/train").symlink_to(tmp_path / "real/l")
    (tmp_path / "real/i/sub/back").symlink_to(tmp_path / "real/i")
    (tmp_path / "real/i/self").symlink_to("self")
    (tmp_path / "real/i/again").symlink_to(tmp_path / "real/i/c")
    (tmp_path / "real/l/again").symlink_to("c")
    (tmp_path / "real/l/linked.png").symlink_to("b.png")
    (tmp_path / "real/i/linked.png").symlink_to(tmp_path / "data/images/val/v.png")
    data = Folder(root, "train")
    assert data.names == ["again/d", "b", "c/d", "linked", "sub/a"]
    assert all(np.array_equal(data.load(i)[1], VALUES) for i in range(5))
    (tmp_path / "real/i/linked.png").unlink()
    (tmp_path / "real/i/linked.png").symlink_to("gone.png")
    with pytest.raises(
        FileNotFoundError, match=r"1 of 5 image files are missing, the first: .*linked"
    ):
        Folder(root, "train")


def test_names_in_either_unicode_form_fit(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "häus") for form in ("NFC", "NFD"))
    assert composed != decomposed
    put(tmp_path, [f"images/train/{decomposed}.png"], [f"labels/train/{composed}.png"])
    assert Folder(tmp_path).names == [composed]


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.png"], ["labels/train/a.png"])
    image = tmp_path / "images/train/a.png"
    try:
        image.rename(os.fsdecode(os.fsencode(image.parent) + b"/h\xe4us.png"))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(DataError, match=r"h\\udce4us.png' is not UTF-8; rename the file") as caught:
        Folder(tmp_path)
    one_line(caught.value).encode()


def test_hidden_and_other_files_are_no_samples(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.png"], ["labels/train/a.png", "labels/train/old/z.png"])
    for name in ("train/._a.png", "train/.hidden/b.png", "train/Thumbs.db", "readme.txt", ".x"):
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no picture")
    (tmp_path / "images" / "more").mkdir()
    data = Folder(tmp_path)
    assert data.names == ["a"]
    images = tmp_path / "images"
    assert data.notes == [
        f"left out: 1 files in {images / 'train'} without the suffix of an image, the first: "
        f"{images / 'train' / 'Thumbs.db'}",
        f"left out: 2 files or folders in {images} that belong to no split, the first: "
        f"{images / 'more'}",
        f"left out: 1 labels without an image, the first: {tmp_path / 'labels/train/old/z.png'}",
    ]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg", "images/train/a.png"], ["labels/train/a.png"])
    with pytest.raises(DataError) as caught:
        Folder(tmp_path)
    line = one_line(caught.value)
    assert "a.jpg and " in line and "a.png have the same name, 'a'; keep one" in line
    (tmp_path / "images/train/a.jpg").unlink()
    save_label(tmp_path / "labels/train/a.tif")
    with pytest.raises(DataError, match=r"labels/train/a.png and .*a.tif have the same name"):
        Folder(tmp_path)


def test_images_without_label_are_named_and_counted(tmp_path: Path) -> None:
    images = [f"images/train/{name}.png" for name in "abcd"]
    put(tmp_path, images, ["labels/train/a.png", "labels/train/x.png", "labels/train/sub/c.png"])
    with pytest.raises(FileNotFoundError) as caught:
        Folder(tmp_path)
    line = one_line(caught.value)
    assert f"3 of 4 images have no label, the first: {tmp_path / images[1]} " in line
    assert f"(searched for {tmp_path / 'labels/train/b'}.*)" in line
    assert "2 labels have no image" in line


def test_labels_may_have_an_ending_of_their_own(tmp_path: Path) -> None:
    images = ["images/train/a1.jpg", "images/train/a10.jpg"]
    put(tmp_path, images, ["labels/train/a1_mask.gif", "labels/train/a10_mask.gif"])
    data = Folder(tmp_path)
    assert data.names == ["a1", "a10"]
    assert [path.name for path in data.labels] == ["a1_mask.gif", "a10_mask.gif"]
    assert data.notes == []
    for name in ("a1_color", "a10_color"):
        save_label(tmp_path / "labels/train" / f"{name}.png")
    with pytest.raises(DataError, match="endings '_color' and '_mask'"):
        Folder(tmp_path)
    # The plain name comes first.
    for name in ("a1", "a10"):
        save_label(tmp_path / "labels/train" / f"{name}.png")
    assert [path.name for path in Folder(tmp_path).labels] == ["a1.png", "a10.png"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    def error(split: str = "train") -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            Folder(tmp_path / "d", split)
        return one_line(caught.value)

    root = tmp_path / "d"
    assert f"no folder {root}; --data_root must hold images/{{train,val}}" in error()
    root.mkdir()
    assert "none of classes.txt, classes.csv in" in error()
    (root / "classes.txt").write_text("a\nb")
    (root / "classes.csv").write_text("name\na\nb")
    assert "holds classes.txt and classes.csv" in error()
    (root / "classes.csv").unlink()
    assert f"no folder {root / 'images'};" in error()
    (root / "images").mkdir()
    assert f"no folder {root / 'labels'} (or annotations, masks)" in error()
    (root / "labels").mkdir()
    assert f"the data set is empty: {root / 'images'} and the folders in it hold no" in error()
    (root / "images/train").mkdir()
    assert f"the split train is empty: {root / 'images/train'} and" in error()
    assert f"no folder {root / 'images/val'}" in error("val") and "--val_fraction" in error("val")
    assert f"no folder {root / 'images/test'}" in error("test")
    assert "val_fraction" not in error("test")
    save_image(root / "images/train/a.png")
    assert "1 of 1 images have no label" in error()
    (root / "images/training").mkdir()
    assert "train and " in error() and "training are both for train; keep one" in error()
    for folder in ("labels", "masks"):
        save_label(root / folder / "train/a.png")
    assert f"labels are in {root / 'labels'} and {root / 'masks'}; keep one" in error()
    with pytest.raises(ValueError, match="unknown split 'trainval'; allowed: train, val, test"):
        Folder(root, "trainval")


def test_a_folder_that_cannot_be_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, ["images/train/sub/a.png"], ["labels/train/sub/a.png"])
    locked, scandir = tmp_path / "images/train/sub", os.scandir

    def refuse(folder: Path) -> object:  # the system refuses nothing to root
        if folder == locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"cannot list the folder {locked}: Permission denied$"):
        Folder(tmp_path)


def test_without_a_class_list_the_values_are_told(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.png"], ["labels/train/a.png"])
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Folder(tmp_path)
    line = one_line(caught.value)
    assert "write a classes.txt" in line and line.endswith("the first labels hold 0, 1, 2, 255")
    save_label(tmp_path / "labels/train/a.png", np.array([[[0, 16, 255]] * 6] * 4, dtype=np.uint8))
    with pytest.raises(FileNotFoundError, match="the first labels hold #0010ff$"):
        Folder(tmp_path)


def test_what_create_was_given_arrives(tmp_path: Path) -> None:
    flat(tmp_path, list("abcdefgh"))
    split_file = tmp_path / "s.txt"
    split_file.write_text("train a\nval b\n")
    half = create_dataset("folder", "val", root=tmp_path, options={"val_fraction": 0.5}, seed=3)
    assert len(half) == 4 and half.seed == 3
    listed = create_dataset("folder", "val", root=tmp_path, options={"split_file": split_file})
    assert listed.names == ["b"]


CAMVID = "sky building pole road sidewalk tree sign fence car person bicyclist"


def test_real_camvid(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).symlink_to(real_data("camvid") / folder)
    (tmp_path / "classes.txt").write_text(CAMVID.replace(" ", "\n"))
    train, val = Folder(tmp_path, "train"), Folder(tmp_path, "val")
    assert (len(train), len(val)) == (367, 101)
    image, label = train.load(0)
    assert image.shape == (360, 480, 3) and label.shape == (360, 480)
    # The lower half of the picture's middle is the road the car is on.
    assert train.class_names[np.bincount(label[-60:, 200:280].ravel()).argmax()] == "road"
