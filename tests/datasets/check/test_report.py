from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DATASETS, Cityscapes, DataError, Shapes, VOCSegmentation, create_dataset
from datasets.base import FileDataset, SegmentationDataset
from datasets.check.report import Report, check, spread_evenly
from datasets.facts import ClassFacts, make_label_table, make_palette

NAMES = ("wood", "metal", "glass")
NONE = 255


def picture(seed: int, size: tuple[int, int] = (4, 5)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def label_of(*values: int) -> np.ndarray:
    """4 x 5 pixels that hold the values in equal parts."""
    return np.resize(np.array(values, np.uint8), 20).reshape(4, 5)


class Arrays(SegmentationDataset):
    """Images and labels given as arrays; an exception is raised, a callable called."""

    class_names = NAMES
    palette = make_palette([(1, 2, 3)] * 3)

    def __init__(self, prefix: str, samples: list) -> None:
        super().__init__()
        self.prefix, self.samples = prefix, samples

    def __len__(self) -> int:
        return len(self.samples)

    def sample_name(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        if isinstance(sample, Exception):
            raise sample
        return sample() if callable(sample) else sample


def good(first_seed: int, count: int = 3) -> list:
    return [(picture(first_seed + i), label_of(0, 1, 2, NONE)) for i in range(count)]


def checked(train: list, val: list | None = None, **more) -> Report:
    splits = {"train": Arrays("t", train), "val": Arrays("v", good(50) if val is None else val)}
    return check(splits, **{"num_workers": 0, "progress": False} | more)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_wrong(num_workers: int) -> None:
    report = checked(good(0), num_workers=num_workers)
    assert report.ok and report.problems == report.notes == []
    assert report.text().endswith("\n\nthe data is fit to train on")


def test_the_table_has_shares_and_images_counted_by_hand() -> None:
    many = np.zeros((100, 300), np.uint8)
    many[0, 0] = 1  # 1 of 30,000
    train = [(picture(0, many.shape), many)]
    val = [(picture(i), label_of(*values)) for i, values in enumerate([(0, 1, 1, 255), (0,)])]
    report = checked(train, [*val, (picture(3, (8, 5)), np.zeros((8, 5), np.uint8))])
    # val: 5 + 20 + 40 pixels of wood, 10 of metal, 5 ignored of 80.
    assert report.table().split("\n") == [
        "train: 1 image, 300x100; 0.00 % of the pixels are ignored",
        "val: 3 images, 5x4 in 2, widths 5..5, heights 4..8; 6.25 % of the pixels are ignored",
        "",
        "class  train %  train images  val %  val images",
        "wood    100.00             1  86.67           3",
        "metal    <0.01             1  13.33           1",
        "glass     0.00             0   0.00           0  never occurs",
    ]
    assert report.notes == ["1 class in no label: glass"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_sample_that_cannot_be_used_is_named(num_workers: int) -> None:
    small = picture(1, (4, 4))
    bad = [
        DataError("cannot read x.png: broken"),
        ZeroDivisionError("some\nbug"),
        (small, label_of(0)),
        (picture(2), label_of(0).astype(np.int64)),
        (picture(3), label_of(0, 3)),
    ]
    report = checked([*good(0), *bad], num_workers=num_workers)
    assert not report.ok
    assert report.problems == [
        "train: cannot read x.png: broken",
        "train: sample t4: ZeroDivisionError: some bug",
        "train: sample t5: image (4, 4, 3) uint8 and label (4, 5) uint8; they must be (H, W, 3) "
        "and (H, W), both uint8",
        "train: sample t6: image (4, 5, 3) uint8 and label (4, 5) int64; they must be (H, W, 3) "
        "and (H, W), both uint8",
        "train: the label of sample t7 has train id 3; allowed: 0..2 and 255 (ignored)",
    ]
    assert report.text().endswith("\n5 problems: fix the data before training")
    skipping = checked([*good(0), *bad], num_workers=num_workers, skip_bad_files=True)
    assert skipping.ok and skipping.notes == report.problems


def test_more_than_twenty_bad_files_are_counted() -> None:
    report = checked([*good(0), *(DataError(f"bad {i}") for i in range(33))])
    assert report.problems[19] == "train: bad 19"
    assert report.problems[20:] == ["13 more samples cannot be read"]


def test_a_split_of_which_nothing_can_be_read_is_a_problem_whatever_is_skipped() -> None:
    report = checked(good(0), [DataError("bad")], skip_bad_files=True)
    assert report.problems == ["val: no sample can be read"] and report.notes == ["val: bad"]
    assert "val: 1 image, none of which can be read" in report.table()


def test_the_same_image_in_train_and_val_is_a_problem() -> None:
    train = good(0)
    val = [*good(50), (train[1][0].copy(), label_of(0, 1, 2))]
    report = checked(train, val)
    assert report.problems == [
        "1 image in both train and val: t1 = v3; scores would be too good: remove "
        "them from one split"
    ]
    one_off = train[1][0].copy()
    one_off[0, 0, 0] ^= 1
    assert checked(train, [*good(50), (one_off, label_of(0))]).ok
    flat = train[1][0].reshape(5, 4, 3)  # the same bytes, another picture
    assert checked(train, [*good(50), (flat, label_of(0).reshape(5, 4))]).ok


def test_an_image_twice_in_a_split_or_in_test_too_is_a_note() -> None:
    splits = {"train": Arrays("t", good(0) + good(2)), "val": Arrays("v", good(50))}
    splits["test"] = Arrays("x", good(52))
    report = check(splits, num_workers=0, progress=False)
    assert report.problems == []
    assert report.notes == [
        "1 image in both val and test: v2 = x0",
        "train: 1 image more than once: t2 = t3",
    ]


def test_a_split_without_a_labeled_pixel() -> None:
    nothing = [(picture(9), label_of(NONE))]
    assert checked(nothing).problems == ["train: all pixels are ignored, none is labeled"]
    report = checked(good(0), nothing)
    assert report.problems == ["val: all pixels are ignored, none is labeled"] and not report.notes
    assert "never" not in report.table()
    some = checked(good(0) + nothing)
    assert some.ok and some.notes == ["train: 1 image without any labeled pixel: t3"]
    test = check({"test": Arrays("x", nothing)}, num_workers=0, progress=False)
    assert test.ok and test.notes[0] == "test: all pixels are ignored, none is labeled"


def test_classes_that_are_missing() -> None:
    def of(seed: int, *values: int) -> list:
        return [(picture(seed), label_of(*values))]

    unseen = checked(of(0, 0, 1), of(1, 0, 2))
    assert unseen.problems == ["in val but never in train, so not learned: glass"]
    assert unseen.notes == ["in train but never in val, so not scored: metal"]
    flags = [line.split("  ")[-1] for line in unseen.table().split("\n")[-2:]]
    assert flags == ["never in val", "never in train"]

    unscored = checked(of(0, 0, 1, 2), of(1, 0, 1))
    assert unscored.ok and unscored.notes == ["in train but never in val, so not scored: glass"]

    never = checked(of(0, 0, 1), of(1, 0, 1))
    assert never.ok and never.notes == ["1 class in no label: glass"]

    single = checked(of(0, 0, NONE), of(1, 0, NONE))  # what 0/255 masks are without a class list
    assert len(single.problems) == 1
    assert "all labeled pixels are wood, so there is nothing to learn" in single.problems[0]


def test_in_brief_a_few_are_loaded_and_what_they_cannot_tell_is_not_judged() -> None:
    loaded: list[int] = []

    def sample(number: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        def load() -> tuple[np.ndarray, np.ndarray]:
            loaded.append(number)
            return picture(number), label_of(0)

        return load

    report = checked([sample(i) for i in range(90)], good(500, 2), sample=4)
    assert loaded == [0, 30, 59, 89]
    assert report.ok and len(report.notes) == 1
    assert "train: 4 of 90 images checked, 5x4;" in report.table()
    assert "val: 2 images, 5x4;" in report.table()


def test_indices_are_spread_evenly() -> None:
    assert spread_evenly(10, 3) == [0, 4, 9] and spread_evenly(2, 5) == [0, 1]
    assert spread_evenly(7, 1) == [0] and spread_evenly(0, 4) == []
    for length in (1, 2, 3, 49, 1000, 2975, 10582):
        assert spread_evenly(length, length) == list(range(length))


def test_samples_for_a_contact_sheet_are_readable_ones_of_all_splits() -> None:
    train = [DataError("bad") if i in (0, 5, 99) else s for i, s in enumerate(good(0, 100))]
    report = checked(train, good(500, 30))
    chosen = report.sheet_samples
    by_split = {name: [i for split, i in chosen if split == name] for name in ("train", "val")}
    assert len(by_split["train"]) == 8 and len(by_split["val"]) == 4
    assert by_split["train"][0] == 1 and by_split["train"][-1] == 98
    assert by_split["val"] == [0, 10, 19, 29]
    assert checked([DataError("bad")], [DataError("bad")]).sheet_samples == []


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(DataError, match="a loader process died at one of the 2 samples"):
        checked([*good(0), die], num_workers=1)


class Files(FileDataset):
    facts = ClassFacts(NAMES, make_palette([(1, 2, 3)] * 3), make_label_table({0: 0, 1: 1, 2: 2}))


def write_files(folder: Path, count: int) -> Files:
    names = [f"{i}" for i in range(count)]
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(folder / f"{name}.jpg")
        Image.fromarray(label_of(0, 1, 2)).save(folder / f"{name}.png")
    paths = [folder / f"{name}.jpg" for name in names]
    return Files(paths, [path.with_suffix(".png") for path in paths], names)


def test_bad_files_and_label_values_are_found(tmp_path: Path) -> None:
    dataset = write_files(tmp_path, 6)
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(label_of(0, 7, 9)).save(tmp_path / "2.png")
    Image.fromarray(label_of(0)[:, :3]).save(tmp_path / "3.png")
    (tmp_path / "4.png").unlink()
    report = check({"train": dataset}, num_workers=0, progress=False)
    starts = [
        f"cannot read {tmp_path}/1.jpg: ",
        f"label {tmp_path}/2.png: values 7, 9 are not classes",
    ]
    starts += [f"sizes differ: image {tmp_path}/3.jpg is 5x4", f"cannot read {tmp_path}/4.png: "]
    for line, start in zip(report.problems, starts, strict=True):
        assert line.startswith(f"train: {start}") and "\n" not in line


def test_in_brief_a_file_that_is_in_both_lists_is_found_without_loading_it(tmp_path: Path) -> None:
    train, val = write_files(tmp_path, 9), write_files(tmp_path, 9)
    val.images, val.labels, val.names = val.images[4:6], val.labels[4:6], val.names[4:6]
    del train.images[5], train.labels[5], train.names[5]
    report = check({"train": train, "val": val}, num_workers=0, sample=2, progress=False)
    assert report.problems == [
        f"1 image file in both train and val, the first {tmp_path}/4.jpg; scores would be too good"
    ]


def test_every_registered_data_set_without_files_can_be_checked() -> None:
    for name, kind in DATASETS.items():
        if kind.how_to_get is None:
            splits = {s: create_dataset(name, s, root=Path("none")) for s in kind.splits}
            report = check(splits, num_workers=0, sample=20, progress=False)
            assert report.ok and report.notes == [], name


def test_voc_cityscapes_and_shapes(make_voc: Callable[..., Path], cityscapes_root: Path) -> None:
    root = make_voc(aug=True)
    for splits in (
        {s: VOCSegmentation(root, image_set=s) for s in ("train", "val")},
        {s: VOCSegmentation(root, "2012_aug", s) for s in ("train", "val")},
        {s: Cityscapes(cityscapes_root, s) for s in ("train", "val")},
        {s: Shapes(s, length=20, size=(40, 50)) for s in ("train", "val")},
    ):
        assert check(splits, num_workers=1, progress=False).ok
    leaking = {"train": VOCSegmentation(root, image_set="trainval")}
    leaking["val"] = VOCSegmentation(root, image_set="val")
    report = check(leaking, num_workers=0, progress=False)
    assert report.problems[0].startswith("2 images in both train and val: d = d, e = e;")


@pytest.mark.parametrize("name", ["voc_camvid", "cityscapes_camvid"])
def test_real_data_is_fit_to_train_on(real_data: Callable[[str], Path], name: str) -> None:
    root = real_data(name)
    splits = {s: create_dataset(name.split("_")[0], s, root=root) for s in ("train", "val")}
    report = check(splits, num_workers=0, sample=6, progress=False)
    assert report.ok and report.notes == []
