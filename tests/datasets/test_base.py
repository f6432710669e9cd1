"""The contract that all data sets share, and what damaged files are answered with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import (
    DATASETS,
    DataError,
    SampleKey,
    SegmentationDataset,
    Shapes,
    create_dataset,
    data_error_line,
)
from datasets.base import FileDataset, make_label_table, make_palette
from utils.ext_transforms import train_transform


class TwoClasses(FileDataset):
    class_names = ("no", "yes")
    palette = make_palette([(0, 0, 0), (255, 255, 255)])
    label_table = make_label_table({0: 0, 200: 1, 3: 255})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    image, label = tmp_path / "häus 1.png", tmp_path / "häus 1 label.png"
    Image.new("RGB", (6, 4), (10, 20, 30)).save(image)
    Image.fromarray(np.array([[0, 200, 3, 255, 0, 0]] * 4, dtype=np.uint8)).save(label)
    return image, label


def dataset(pair: tuple[Path, Path]) -> TwoClasses:
    return TwoClasses([pair[0]], [pair[1]], ["one"])


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_label_values_become_train_ids(pair: tuple[Path, Path]) -> None:
    image, label = dataset(pair)[0]
    assert image.dtype == label.dtype == torch.uint8
    assert image.shape == (3, 4, 6) and image[:, 0, 0].tolist() == [10, 20, 30]
    assert label.tolist() == [[0, 1, 255, 255, 0, 0]] * 4


def test_without_labels_everything_is_ignored(pair: tuple[Path, Path]) -> None:
    label = TwoClasses([pair[0]], None, ["one"])[0][1]
    assert label.shape == (4, 6) and (label == 255).all()


def test_missing_files_are_named_and_counted(pair: tuple[Path, Path]) -> None:
    gone = pair[0].with_name("gone.png")
    with pytest.raises(FileNotFoundError) as caught:
        TwoClasses([pair[0], pair[0], pair[0]], [pair[1], gone, gone], ["a", "b", "c"])
    line = one_line(caught.value)
    assert f"2 of 3 label files missing, the first: {gone}" in line
    with pytest.raises(FileNotFoundError, match="1 of 1 image files missing"):
        TwoClasses([gone], [pair[1]], ["a"])


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        TwoClasses([], [], [])


def test_sizes_must_agree(pair: tuple[Path, Path]) -> None:
    Image.new("L", (5, 4)).save(pair[1])
    with pytest.raises(DataError) as caught:
        dataset(pair).load(0)
    line = one_line(caught.value)
    assert f"{pair[0]} is 6x4" in line and f"{pair[1]} is 5x4" in line


def test_values_that_are_no_class_are_named(pair: tuple[Path, Path]) -> None:
    Image.fromarray(np.array([[0, 1, 254, 200, 3, 255]] * 4, dtype=np.uint8)).save(pair[1])
    with pytest.raises(DataError) as caught:
        dataset(pair).load(0)
    line = one_line(caught.value)
    assert f"{pair[1]}: values 1, 254 no class; allowed: 0, 3, 200 and 255" in line


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1", "LA"])
def test_label_modes_that_hold_no_ids(pair: tuple[Path, Path], mode: str) -> None:
    Image.new(mode, (6, 4)).save(pair[1])
    with pytest.raises(DataError) as caught:
        dataset(pair).load(0)
    assert f"label {pair[1]} has mode {mode}" in one_line(caught.value)


def test_palette_labels_keep_their_indices(pair: tuple[Path, Path]) -> None:
    label = Image.fromarray(np.array([[0, 200, 3, 255, 0, 200]] * 4, dtype=np.uint8))
    label.putpalette([value for i in range(256) for value in (255 - i, i // 2, 7)])
    label.save(pair[1])
    assert Image.open(pair[1]).mode == "P"
    assert dataset(pair)[0][1].tolist() == [[0, 1, 255, 255, 0, 1]] * 4


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
    pair: tuple[Path, Path], mode: str, color: object, expected: list[int]
) -> None:
    Image.new(mode, (6, 4), color).save(pair[0])
    image = dataset(pair)[0][0]
    assert (image.permute(1, 2, 0) == torch.tensor(expected)).all()


def test_exif_orientation_is_left_alone(pair: tuple[Path, Path]) -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees for display
    path = pair[0].with_suffix(".jpg")
    image.save(path, exif=exif)
    assert TwoClasses([path], [pair[1]], ["one"])[0][0].shape == (3, 4, 6)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_unreadable_files_are_named(pair: tuple[Path, Path], which: int, damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(pair[which])
    content = pair[which].read_bytes()
    bad = {"cut": content[: len(content) // 2], "text": b"not a picture", "empty": b""}[damage]
    pair[which].write_bytes(bad)
    with pytest.raises(DataError) as caught:
        dataset(pair).load(0)
    assert one_line(caught.value).startswith(f"cannot read {pair[which]}: ")
    assert data_error_line(caught.value) == str(caught.value)


def test_error_line_survives_a_worker(pair: tuple[Path, Path]) -> None:
    pair[1].write_bytes(b"broken")
    with pytest.raises(DataError) as alone:
        dataset(pair)[0]
    with pytest.raises(DataError) as in_worker:
        next(iter(DataLoader(dataset(pair), num_workers=1)))
    assert "\n" in str(in_worker.value)
    assert data_error_line(in_worker.value) == str(alone.value)


def test_names_and_colors_of_all_datasets() -> None:
    for cls in DATASETS.values():
        assert len(set(cls.class_names)) == len(cls.class_names)
        assert cls.palette.shape == (256, 3) and cls.palette.dtype == np.uint8
        colors = {tuple(color) for color in cls.palette[: len(cls.class_names)].tolist()}
        assert len(colors) == len(cls.class_names)
        ids = set(cls.label_table.tolist()) - {-1}
        assert ids == {*range(len(cls.class_names)), 255}


@pytest.mark.parametrize("cls", DATASETS.values(), ids=DATASETS)
def test_encode_and_decode_are_pure(cls: type[SegmentationDataset]) -> None:
    train_ids = np.append(np.arange(len(cls.class_names)), 255).astype(np.uint8).reshape(1, -1)
    kept = train_ids.copy()
    colors = cls.decode_target(train_ids)
    assert colors.shape == (*train_ids.shape, 3) and colors.dtype == np.uint8
    assert np.array_equal(train_ids, kept)
    assert np.array_equal(cls.decode_target(torch.from_numpy(train_ids)), colors)
    colors[:] = 1  # the caller's own array, not a view of the palette
    assert cls.palette.max() > 1
    raw = np.array([[255, 0]])
    assert cls.encode_target(raw)[0, 0] == 255
    assert raw.tolist() == [[255, 0]]
    for wrong in (254, 256, -2):
        with pytest.raises(ValueError, match=f"{wrong} no class"):
            cls.encode_target(np.array([0, wrong]))


def keys(epoch: int) -> list[SampleKey]:
    return [SampleKey(epoch, position, (position * 5) % 12) for position in range(12)]


def digest(dataset: SegmentationDataset, order: list[SampleKey], workers: int) -> list[bytes]:
    loader = DataLoader(dataset, batch_size=4, sampler=order, num_workers=workers)
    return [image.numpy().tobytes() + label.numpy().tobytes() for image, label in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_workers() -> None:
    data = Shapes("train", transform=train_transform(48, color_jitter=0.5), length=12, seed=3)
    batches = digest(data, keys(0), 0)
    assert batches == digest(data, keys(0), 1) == digest(data, keys(0), 3)
    assert batches != digest(data, keys(1), 0)


def test_augmentation_is_a_function_of_seed_epoch_and_position() -> None:
    def sample(key: int | SampleKey, seed: int = 0) -> bytes:
        data = Shapes("train", transform=train_transform(48), length=8, seed=seed)
        return data[key][0].numpy().tobytes()

    reference = sample(SampleKey(2, 5, 4))
    assert reference == sample(SampleKey(2, 5, 4))
    assert reference != sample(SampleKey(3, 5, 4))
    assert reference != sample(SampleKey(2, 6, 4))
    assert reference != sample(SampleKey(2, 5, 4), seed=1)
    assert sample(4) == sample(SampleKey(0, 4, 4))
    assert sample(-1) == sample(7)


def test_iteration_ends() -> None:
    assert len(list(Shapes("val", length=3))) == 3
    with pytest.raises(IndexError):
        Shapes("val", length=3)[3]


def test_create_dataset_answers_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset 'vok'; allowed: voc, cityscapes, shapes"):
        create_dataset("vok", "train", root=tmp_path)
    with pytest.raises(ValueError, match="cityscapes has no split 'trainval'.*train, val, test"):
        create_dataset("cityscapes", "trainval", root=tmp_path)
    gone = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError) as caught:
        create_dataset("voc", "train", root=gone)
    line = one_line(caught.value)
    assert str(gone) in line and "--download" in line and "--dataset shapes" in line
    with pytest.raises(FileNotFoundError) as caught:
        create_dataset("cityscapes", "train", root=gone)
    line = one_line(caught.value)
    assert "gtFine_trainvaltest.zip" in line and "--dataset shapes" in line
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        create_dataset("voc", "train", root=tmp_path / "file")


def test_create_dataset_needs_no_files_for_shapes(tmp_path: Path) -> None:
    transform = train_transform(40)
    data = create_dataset("shapes", "val", root=tmp_path / "nowhere", transform=transform, seed=4)
    assert isinstance(data, Shapes) and data.seed == 4
    assert data[0][0].shape == (3, 40, 40)
