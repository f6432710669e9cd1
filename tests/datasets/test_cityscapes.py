"""Cityscapes from a tiny tree of files, its tables against the official scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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
    theirs = [(row.name, row.id, row.trainId % 256, row.color) for row in labels]
    assert [tuple(row) for row in CLASSES] == theirs


def test_train_classes_are_the_19() -> None:
    assert len(CLASSES) == 35
    assert Cityscapes.class_names == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    )  # fmt: skip
    assert Cityscapes.palette[0].tolist() == [128, 64, 128]
    assert Cityscapes.palette[13].tolist() == [0, 0, 142]
    assert Cityscapes.palette[18].tolist() == [119, 11, 32]
    assert not Cityscapes.palette[19:].any()  # 255 too: black


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
        assert np.array_equal(data[index][1].numpy(), expected_train_ids(ids))
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
        f"label {data.labels[0]}: value {value} no class; allowed: 0..33 and 255 (ignored)"
    )


def test_test_split_without_labels(cityscapes_root: Path) -> None:
    shutil.rmtree(cityscapes_root / "gtFine" / "test")
    data = create_dataset("cityscapes", "test", root=cityscapes_root)
    assert (data[0][1] == 255).all() and data[0][1].shape == (10, 7)


@pytest.mark.parametrize("kind", ["gtFine", "leftImg8bit"])
def test_missing_archive_is_named(cityscapes_root: Path, kind: str) -> None:
    shutil.rmtree(cityscapes_root / kind)
    with pytest.raises(FileNotFoundError) as caught:
        Cityscapes(cityscapes_root, "train")
    line = str(caught.value)
    assert "\n" not in line and f"no folder {cityscapes_root / kind / 'train'}" in line
    assert f"unpack {kind}_trainvaltest.zip" in line and "login" in line
    assert "gtFine/{train,val}/<city>/*_gtFine_labelIds.png" in line


def test_missing_label_is_named(cityscapes_root: Path) -> None:
    label = cityscapes_root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    label.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Cityscapes(cityscapes_root, "train")
    assert f"1 of 3 label files missing, the first: {label}" in str(caught.value)


def test_no_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "train").mkdir(parents=True)
    (tmp_path / "gtFine" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no image.*leftImg8bit/\{train,val\}/<city>"):
        Cityscapes(tmp_path, "train")


def test_arguments_that_do_not_exist(cityscapes_root: Path) -> None:
    with pytest.raises(ValueError, match="mode 'coarse'; allowed: fine"):
        Cityscapes(cityscapes_root, mode="coarse")
    with pytest.raises(ValueError, match="target_type 'instance'; allowed: semantic"):
        Cityscapes(cityscapes_root, target_type="instance")
    with pytest.raises(ValueError, match="split 'trainval'; allowed: train, val, test"):
        Cityscapes(cityscapes_root, "trainval")
    with pytest.raises(ValueError, match="login.*leftImg8bit_trainvaltest.zip and gtFine"):
        create_dataset("cityscapes", "train", root=cityscapes_root, download=True)


def test_real_files(real_data: Callable[[str], Path]) -> None:
    root = real_data("cityscapes_camvid")
    train, val = Cityscapes(root, "train"), Cityscapes(root, "val")
    assert (len(train), len(val)) == (367, 101)
    assert train.names == sorted(train.names)
    ids = np.asarray(Image.open(val.labels[0]))
    assert np.array_equal(val[0][1].numpy(), expected_train_ids(ids))
