"""Cityscapes from a tiny tree of files, its tables against the official scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import Cityscapes, DataError, create_dataset
from datasets.cityscapes import CLASSES

# Label definition of Cityscapes: the ids of the 19 training classes, in order.
TRAINED_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def expected_train_ids(ids: np.ndarray) -> np.ndarray:
    out = np.full(ids.shape, 255)
    for train_id, label_id in enumerate(TRAINED_IDS):
        out[ids == label_id] = train_id
    return out


def test_table_is_the_official_one() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    theirs = [
        (
            row.name,
            row.id,
            row.trainId % 256,
            row.category,
            row.categoryId,
            row.hasInstances,
            row.ignoreInEval,
            row.color,
        )
        for row in labels
    ]
    assert [tuple(row) for row in CLASSES] == theirs


def test_train_classes_are_the_19() -> None:
    assert len(CLASSES) == 35
    assert Cityscapes.facts.class_names == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    )  # fmt: skip
    assert Cityscapes.facts.palette[0].tolist() == [128, 64, 128]
    assert Cityscapes.facts.palette[13].tolist() == [0, 0, 142]
    assert Cityscapes.facts.palette[18].tolist() == [119, 11, 32]
    assert not Cityscapes.facts.palette[19:].any()  # 255 too: black


def test_label_ids_become_train_ids(cityscapes_root: Path) -> None:
    data = Cityscapes(cityscapes_root, "train")
    assert [data.sample_name(i) for i in range(len(data))] == [
        "aachen/aachen_000000_000019_leftImg8bit",
        "aachen/aachen_000001_000019_leftImg8bit",
        "ulm/ulm_000001_000019_leftImg8bit",
    ]
    for index in range(3):
        ids = np.asarray(Image.open(data.labels[index]))
        assert set(ids.ravel()) == {*range(34), 255}
        assert np.array_equal(data.load(index)[1], expected_train_ids(ids))
        assert np.array_equal(Cityscapes.encode_target(ids), expected_train_ids(ids))
    assert len(Cityscapes(cityscapes_root, "val")) == len(Cityscapes(cityscapes_root, "test")) == 1


def test_license_plate_is_ignored() -> None:
    assert Cityscapes.encode_target(np.array([-1, 255, 7])).tolist() == [255, 255, 0]


def test_decode_leaves_the_callers_array_alone() -> None:
    ids = np.array([[0, 255, 18]], dtype=np.uint8)
    colors = Cityscapes.decode_target(ids)
    assert colors.tolist() == [[[128, 64, 128], [0, 0, 0], [119, 11, 32]]]
    assert ids.tolist() == [[0, 255, 18]]


@pytest.mark.parametrize("value", [34, 100, 254])
def test_values_that_are_no_label_id(cityscapes_root: Path, value: int) -> None:
    data = Cityscapes(cityscapes_root, "val")
    ids = np.zeros((10, 7), dtype=np.uint8)
    ids[3, 3] = value
    Image.fromarray(ids).save(data.labels[0])
    with pytest.raises(DataError) as caught:
        data.load(0)
    assert str(caught.value) == (
        f"label {data.labels[0]}: value {value} is not a class; allowed: 7..8, 11..13, 17, 19..28, "
        "31..33 and 0..6, 9..10, 14..16, 18, 29..30, 255 (ignored)"
    )


def test_test_split_without_labels(cityscapes_root: Path) -> None:
    shutil.rmtree(cityscapes_root / "gtFine" / "test")
    data = create_dataset("cityscapes", "test", root=cityscapes_root)
    label = data.load(0)[1]
    assert (label == 255).all() and label.shape == (10, 7)


@pytest.mark.parametrize("kind", ["gtFine", "leftImg8bit"])
def test_missing_archive_is_named(cityscapes_root: Path, kind: str) -> None:
    shutil.rmtree(cityscapes_root / kind)
    with pytest.raises(FileNotFoundError) as caught:
        Cityscapes(cityscapes_root, "train")
    line = str(caught.value)
    assert "\n" not in line and f"no folder {cityscapes_root / kind / 'train'}" in line
    assert f"{kind}_trainvaltest.zip" in line and "login" in line
    assert "gtFine/{train,val}/<city>/*_gtFine_labelIds.png" in line


def test_train_and_val(cityscapes_root: Path) -> None:
    data = create_dataset("cityscapes", "trainval", root=cityscapes_root)
    assert [name.split("_")[0] for name in data.names] == [
        "aachen/aachen",
        "aachen/aachen",
        "ulm/ulm",
        "frankfurt/frankfurt",
    ]
    for index in range(4):
        ids = np.asarray(Image.open(data.labels[index]))
        assert np.array_equal(data.load(index)[1], expected_train_ids(ids))
    assert "gtFine/val/frankfurt" in data.labels[3].as_posix()


@pytest.fixture
def coarse_root(tmp_path: Path) -> Path:
    """Train, val and train_extra with coarse labels; one of the latter is the bad image."""
    root = tmp_path / "coarse"
    for number, (split, stem) in enumerate(
        [
            ("train", "ulm_000001_000019"),
            ("val", "frankfurt_000000_000294"),
            ("train_extra", "troisdorf_000000_000073"),
            ("train_extra", "troisdorf_000000_000078"),
        ]
    ):
        image = root / "leftImg8bit" / split / stem.split("_")[0] / f"{stem}_leftImg8bit.png"
        label = root / "gtCoarse" / split / stem.split("_")[0] / f"{stem}_gtCoarse_labelIds.png"
        for path, shape in ((image, (10, 7, 3)), (label, (10, 7))):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, 7 + number, dtype=np.uint8)).save(path)
    return root


def test_coarse_labels(coarse_root: Path) -> None:
    extra = create_dataset("cityscapes", "train_extra", root=coarse_root)
    assert extra.names == ["troisdorf/troisdorf_000000_000078_leftImg8bit"]
    assert extra.notes == [
        "troisdorf_000000_000073 is left out because it is black in the published archive"
    ]
    assert (extra.load(0)[1] == 255).all()  # id 10, rail track
    both = Cityscapes(coarse_root, "trainval", mode="coarse")
    assert [np.unique(both.load(i)[1]).tolist() for i in range(2)] == [
        [0],
        [1],
    ] and both.notes == []


def test_missing_folders_are_named(coarse_root: Path) -> None:
    for folder in ("gtCoarse", "leftImg8bit"):
        shutil.rmtree(coarse_root / folder)
    with pytest.raises(FileNotFoundError) as caught:
        create_dataset("cityscapes", "train_extra", root=coarse_root)
    line = str(caught.value)
    assert "leftImg8bit_trainextra.zip and gtCoarse.zip" in line and f"in {coarse_root}," in line
    for folder in ("gtCoarse/train_extra", "leftImg8bit/train_extra"):
        assert f"no folder {coarse_root / folder}" in line


def test_missing_label_is_named(cityscapes_root: Path) -> None:
    label = cityscapes_root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    label.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Cityscapes(cityscapes_root, "train")
    assert f"1 of 3 label files are missing, the first: {label}" in str(caught.value)


def test_missing_label_may_be_skipped(cityscapes_root: Path) -> None:
    path = next((cityscapes_root / "gtFine/train/ulm").glob("*_labelIds.png"))
    path.unlink()
    data = create_dataset("cityscapes", "train", root=cityscapes_root, allow_missing=True)
    assert len(data) == 3
    with pytest.raises(DataError, match=f"cannot read {path}: No such file"):
        data.load(2)


def test_no_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "train").mkdir(parents=True)
    (tmp_path / "gtFine" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no image.*leftImg8bit/\{train,val\}/<city>"):
        Cityscapes(tmp_path, "train")


def test_arguments_that_do_not_exist(cityscapes_root: Path) -> None:
    with pytest.raises(ValueError, match="mode 'rough'; allowed: fine, coarse"):
        Cityscapes(cityscapes_root, mode="rough")
    with pytest.raises(ValueError, match="split of the fine labels 'train_extra'; allowed: train"):
        Cityscapes(cityscapes_root, "train_extra")
    with pytest.raises(ValueError, match="split of the coarse labels 'test'; allowed: train"):
        Cityscapes(cityscapes_root, "test", mode="coarse")
    with pytest.raises(ValueError, match="target_type 'instance'; allowed: semantic"):
        Cityscapes(cityscapes_root, target_type="instance")
    with pytest.raises(ValueError, match="labels 'all'; allowed: train, val, test, trainval"):
        Cityscapes(cityscapes_root, "all")
    with pytest.raises(ValueError, match="leftImg8bit_trainvaltest.zip and gtFine.*login"):
        create_dataset("cityscapes", "train", root=cityscapes_root, options={"download": True})


def test_real_files(real_data: Callable[[str], Path]) -> None:
    root = real_data("cityscapes_camvid")
    train, val = Cityscapes(root, "train"), Cityscapes(root, "val")
    assert (len(train), len(val)) == (367, 101)
    assert train.names == sorted(train.names)
    ids = np.asarray(Image.open(val.labels[0]))
    assert np.array_equal(val.load(0)[1], expected_train_ids(ids))


def test_the_predecessors_names(cityscapes_root: Path) -> None:
    data = Cityscapes(cityscapes_root, "train")
    assert data.targets == data.labels and len(data.targets) == 3
    row = Cityscapes.classes[26]
    assert row == ("car", 26, 13, "vehicle", 7, True, False, (0, 0, 142))
    assert (row.name, row.train_id, row.category) == ("car", 13, "vehicle")
    table = Cityscapes.id_to_train_id
    assert len(table) == 35 and table[7] == 0 and table[33] == 18 and table[-1] == 255
    ids = np.array(Image.open(data.targets[0]).point(lambda v: v if v < 34 else 0))
    assert np.array_equal(table[ids], Cityscapes.encode_target(ids))
    assert Cityscapes.train_id_to_color.shape == (20, 3)
    assert Cityscapes.train_id_to_color[[0, 18, 19]].tolist() == [
        [128, 64, 128], [119, 11, 32], [0, 0, 0],
    ]  # fmt: skip
    image, label = data[0]
    assert image.mode == "RGB" and image.size == label.size == (7, 10)
    assert np.array_equal(np.asarray(label), data.load(0)[1])


@pytest.mark.parametrize("kind", [np.uint8, np.int64, torch.uint8, torch.int64])
def test_label_ids_of_the_server(kind: object) -> None:
    train_ids = [[*range(19), 255]]
    given = np.array(train_ids, kind) if isinstance(kind, type) else torch.tensor(train_ids)
    ids = Cityscapes.to_label_ids(given)
    assert ids.dtype == np.uint8 and ids.tolist() == [[*TRAINED_IDS, 0]]
    assert Cityscapes.encode_target(ids).tolist() == train_ids
