"""Pascal VOC from tiny trees of files, and from real ones where present."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from datasets import VOCSegmentation, create_dataset
from datasets.voc import CLASS_NAMES, voc_cmap

# PASCAL VOC development kit, VOClabelcolormap: classes 0..20 and the void border.
FIRST_COLORS = [
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
    (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0),
    (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0),
    (0, 192, 0), (128, 192, 0), (0, 64, 128),
]  # fmt: skip
VOID_COLOR = (224, 224, 192)

MakeVoc = Callable[..., Path]


def stored(root: Path, folder: str, name: str) -> list[list[int]]:
    path = root / "VOCdevkit" / "VOC2012" / folder / f"{name}.png"
    return np.asarray(Image.open(path)).tolist()


def test_colors_are_the_development_kits() -> None:
    cmap = voc_cmap()
    assert cmap.shape == (256, 3) and cmap.dtype == np.uint8
    assert [tuple(color) for color in cmap[:21].tolist()] == FIRST_COLORS
    assert tuple(cmap[255].tolist()) == VOID_COLOR
    assert voc_cmap(5).shape == (5, 3)
    normalized = voc_cmap(normalized=True)
    assert normalized.dtype == np.float32
    assert normalized[1].tolist() == pytest.approx([128 / 255, 0, 0])
    assert np.array_equal(VOCSegmentation.facts.palette, cmap)


def test_class_names() -> None:
    assert len(CLASS_NAMES) == 21
    assert (CLASS_NAMES[0], CLASS_NAMES[15], CLASS_NAMES[20]) == (
        "background",
        "person",
        "tvmonitor",
    )
    weights = torchvision.models.segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1
    theirs = [name.removeprefix("__").removesuffix("__") for name in weights.meta["categories"]]
    assert list(CLASS_NAMES) == theirs


@pytest.mark.parametrize(
    ("image_set", "names"), [("train", "abc"), ("val", "de"), ("trainval", "abcde")]
)
def test_split_files_say_what_is_in_it(make_voc: MakeVoc, image_set: str, names: str) -> None:
    root = make_voc()
    data = VOCSegmentation(root, "2012", image_set)
    assert [data.sample_name(i) for i in range(len(data))] == list(names)
    for index, name in enumerate(names):
        image, label = data.load(index)
        assert label.tolist() == stored(root, "SegmentationClass", name)
        jpeg = Image.open(root / "VOCdevkit/VOC2012/JPEGImages" / f"{name}.jpg")
        assert np.array_equal(image, np.asarray(jpeg))


def test_augmented_train_is_all_labels_outside_val(make_voc: MakeVoc) -> None:
    root = make_voc(aug=True)
    (root / "VOCdevkit/VOC2012/SegmentationClassAug/._a.png").touch()
    train = VOCSegmentation(root, "2012_aug", "train")
    assert [train.sample_name(i) for i in range(len(train))] == ["a", "b", "c", "f"]
    assert train.load(0)[1].tolist() == stored(root, "SegmentationClassAug", "a")
    val = VOCSegmentation(root, "2012_aug", "val")
    assert [val.sample_name(i) for i in range(len(val))] == ["d", "e"]
    assert val.load(0)[1].tolist() == stored(root, "SegmentationClass", "d")
    both = create_dataset("voc", "trainval", root=root, options={"year": "2012_aug"})
    assert [both.sample_name(i) for i in range(len(both))] == ["a", "b", "c", "f", "d", "e"]
    assert both.load(3)[1].tolist() == stored(root, "SegmentationClassAug", "f")
    assert both.load(4)[1].tolist() == stored(root, "SegmentationClass", "d")


@pytest.mark.parametrize("year", ["2007", "2008", "2009", "2010", "2011"])
def test_other_years(make_voc: MakeVoc, year: str) -> None:
    top = "TrainVal/" if year == "2011" else ""
    root = make_voc(f"{top}VOCdevkit/VOC{year}")
    data = create_dataset("voc", "train", root=root, options={"year": year})
    assert len(data) == 3
    if year == "2007":
        assert len(VOCSegmentation(root, year, "test")) == 1
    else:
        with pytest.raises(ValueError, match=f"VOC {year} 'test'; allowed: train, val, trainval"):
            VOCSegmentation(root, year, "test")


def test_folders_are_torchvisions() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    from datasets.voc import FOLDERS

    for year in range(2007, 2013):
        assert str(FOLDERS[str(year)]) == DATASET_YEAR_DICT[str(year)]["base_dir"]


def test_unknown_year() -> None:
    with pytest.raises(ValueError, match="unknown year '2013'; allowed: 2007, .*2012_aug"):
        VOCSegmentation("x", "2013")


def test_missing_split_file_says_what_to_do(tmp_path: Path) -> None:
    wanted = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    with pytest.raises(FileNotFoundError) as caught:
        create_dataset("voc", "train", root=tmp_path)
    assert str(caught.value) == (
        f"no split file {wanted}; --data_root must hold VOCdevkit/, or pass --download"
    )


def test_empty_split_file(make_voc: MakeVoc) -> None:
    root = make_voc()
    path = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_text("\n")
    with pytest.raises(ValueError, match="train.txt is empty"):
        VOCSegmentation(root)


def test_a_split_file_that_is_not_utf8(make_voc: MakeVoc) -> None:
    root = make_voc()
    path = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    path.write_bytes("größe\n".encode("latin-1"))
    with pytest.raises(ValueError) as caught:
        VOCSegmentation(root)
    assert str(caught.value) == (
        f"split file {path} is not UTF-8; it must list one image name per line"
    )


def test_missing_files_may_be_skipped(make_voc: MakeVoc) -> None:
    root = make_voc()
    (root / "VOCdevkit/VOC2012/SegmentationClass/b.png").unlink()
    data = create_dataset("voc", "train", root=root, allow_missing=True)
    assert data.names == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"cannot read .*SegmentationClass/b\.png: No such file"):
        data.load(1)


def test_missing_label_and_missing_augmentation(make_voc: MakeVoc) -> None:
    root = make_voc()
    with pytest.raises(
        FileNotFoundError, match="no folder .*Aug; .*python -m datasets.voc_aug .*12,031"
    ):
        VOCSegmentation(root, "2012_aug", "train")
    label = root / "VOCdevkit/VOC2012/SegmentationClass/b.png"
    label.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        VOCSegmentation(root)
    assert f"1 of 3 label files are missing, the first: {label}" in str(caught.value)


def test_augmentation_without_train_labels(make_voc: MakeVoc) -> None:
    root = make_voc(aug=True)
    for name in "abcf":
        (root / f"VOCdevkit/VOC2012/SegmentationClassAug/{name}.png").unlink()
    with pytest.raises(ValueError, match="are in val.txt"):
        VOCSegmentation(root, "2012_aug", "train")


def test_real_files(real_data: Callable[[str], Path]) -> None:
    root = real_data("voc_camvid")
    train = VOCSegmentation(root, "2012", "train")
    val = VOCSegmentation(root, "2012", "val")
    augmented = VOCSegmentation(root, "2012_aug", "train")
    assert set(train.names).isdisjoint(val.names)
    assert set(augmented.names).isdisjoint(val.names)
    assert set(train.names) <= set(augmented.names)
    stored_label = Image.open(train.labels[0])
    assert stored_label.mode == "P"
    palette = np.array(stored_label.getpalette(), dtype=np.uint8).reshape(-1, 3)
    assert np.array_equal(palette, VOCSegmentation.facts.palette[: len(palette)])
    label = train.load(0)[1]
    assert np.array_equal(
        VOCSegmentation.decode_target(label), np.asarray(stored_label.convert("RGB"))
    )


def test_the_predecessors_names(make_voc: MakeVoc) -> None:
    data = VOCSegmentation(make_voc())
    assert data.masks == data.labels and len(data.masks) == len(data.images) == 3
    assert np.array_equal(data.cmap, voc_cmap()) and VOCSegmentation.cmap.dtype == np.uint8
    image, label = data[1]
    assert image.mode == "RGB" and label.mode == "P"
    with Image.open(data.masks[1]) as stored_label:
        assert np.array_equal(np.asarray(label), np.asarray(stored_label))
        assert np.array_equal(label.convert("RGB"), stored_label.convert("RGB"))
