"""What the check makes of splits by any name, of turned images, and of a look at a few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import Folder
from datasets.base import FileDataset
from datasets.check.report import Report, check
from datasets.facts import ClassFacts, make_label_table, make_palette


class Files(FileDataset):
    facts = ClassFacts(
        ("wood", "metal", "glass"),
        make_palette([(1, 2, 3)] * 3),
        make_label_table({0: 0, 1: 1, 2: 2}),
    )


def files(folder: Path, *seeds: int, values: tuple[int, ...] = (0, 1, 2), turned: int = 0) -> Files:
    """One image for each seed; the first `turned` of them have an EXIF orientation."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(seeds):
        exif = Image.Exif()
        if place < turned:
            exif[0x0112] = 3
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.jpg", exif=exif)
        label = np.resize(np.array(values, np.uint8), (4, 6))
        Image.fromarray(label).save(folder / f"{seed}.png")
    paths = [folder / f"{seed}.jpg" for seed in seeds]
    return Files(paths, [p.with_suffix(".png") for p in paths], [p.stem for p in paths])


def report(splits: dict[str, Files], sample: int | None = None) -> Report:
    return check(splits, num_workers=0, progress=False, sample=sample)


@pytest.mark.parametrize("train", ["train", "train_extra", "trainval"])
@pytest.mark.parametrize("sample", [None, 8])
def test_images_of_val_may_be_in_trainval_only(
    tmp_path: Path, train: str, sample: int | None
) -> None:
    got = report({train: files(tmp_path, 1, 2, 3), "val": files(tmp_path, 3)}, sample)
    copies = f"1 image in both {train} and val: 3 = 3"
    if train == "trainval":
        assert got.problems == [] and got.notes == [copies]
    else:
        assert got.problems[0] == f"{copies}; scores would be too good: remove them from one split"
        paths = f"1 image file in both {train} and val, the first {tmp_path / '3.jpg'}; scores"
        assert [line.startswith(paths) for line in got.problems[1:]] == ([True] if sample else [])


@pytest.mark.parametrize("train", ["train", "train_extra", "trainval"])
def test_what_is_trained_on_is_judged_by_any_name(tmp_path: Path, train: str) -> None:
    val = files(tmp_path / "val", 9, values=(0, 2))
    nothing = report({train: files(tmp_path / "a", 1, values=(255,)), "val": val})
    assert nothing.problems == [f"{train}: all pixels are ignored, none is labeled"]
    one = report({train: files(tmp_path / "b", 1, values=(0,)), "val": val})
    assert len(one.problems) == 1
    assert one.problems[0].startswith(f"{train}: all labeled pixels are wood, so there is noth")
    two = report({train: files(tmp_path / "c", 1, values=(0, 1)), "val": val})
    assert two.problems == [f"in val but never in {train}, so not learned: glass"]
    assert two.notes == [f"in {train} but never in val, so not scored: metal"]
    many = report({train: files(tmp_path / "d", *range(20, 60)), "val": val})
    chosen = [split for split, _ in many.sheet_samples]
    assert (chosen.count(train), chosen.count("val")) == (8, 1)


@pytest.mark.parametrize("sample", [None, 8])
def test_images_that_viewers_show_turned_are_counted(tmp_path: Path, sample: int | None) -> None:
    splits = {"train": files(tmp_path, 1, 2, 3, turned=2), "val": files(tmp_path, 4)}
    note = " an EXIF orientation; training ignores it, so labels must fit the stored pixels "
    got = report(splits, sample)
    assert got.ok and got.notes == [f"2 images have{note}(predict.py turns images upright)"]
    del splits["train"].images[0]
    splits["val"] = files(tmp_path, 4, turned=1)
    splits["train"] = files(tmp_path, 1)
    assert report(splits, sample).notes == [f"1 image has{note}(predict.py turns images upright)"]


def test_in_brief_a_single_class_is_asked_about(tmp_path: Path) -> None:
    # Masks of 0 and 255 with a plain class list: 255 is ignored.
    for split in ("train", "val"):
        for number in range(12 if split == "train" else 1):
            pixels = np.full((4, 6, 3), number + 20 * (split == "val"), np.uint8)
            mask = np.resize(np.array([0, 255], np.uint8), (4, 6))
            for kind, array in (("images", pixels), ("labels", mask)):
                path = tmp_path / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (tmp_path / "classes.txt").write_text("background\ncell\n")
    splits = {split: Folder(tmp_path, split) for split in ("train", "val")}
    got = report(splits, sample=8)
    assert got.ok and got.notes == [
        "train: the only class in the 8 checked images is background; does the class list fit "
        "the label files? --check_data checks all images"
    ]
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "labels/train/0.png")
    assert report(splits, sample=8).notes == []


LOSSY = {"JPEG": {}, "TIFF": {"compression": "jpeg"}}
LOSSLESS = {"PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "BMP": {}}
KINDS = [(kind, options, True) for kind, options in LOSSY.items()]
KINDS += [(kind, options, False) for kind, options in LOSSLESS.items()]


@pytest.mark.parametrize(("kind", "options", "lossy"), KINDS)
@pytest.mark.parametrize("sample", [None, 8])
def test_labels_that_were_saved_as_jpeg_are_a_problem(
    tmp_path: Path, kind: str, options: dict, lossy: bool, sample: int | None
) -> None:
    """Although all of their values are classes, and whatever the name of the file says."""
    splits = {"train": files(tmp_path, 1, 2, 3), "val": files(tmp_path / "val", 4)}
    for path in splits["train"].labels[:2]:
        Image.new("L", (6, 4), 0).save(path, kind, **options)
    got = report(splits, sample)
    problem = (
        "train: 2 labels saved as JPEG or another type that changes values, whatever the file name "
        "says: 1, 2; make them anew as PNG"
    )
    assert got.problems == ([problem] if lossy else [])
