"""The contract that all data sets share, and what damaged files are answered with."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
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
from datasets.base import FileDataset
from datasets.facts import ClassFacts, make_label_table, make_palette
from utils.ext_transforms import (
    ExtCompose,
    ExtRandomCrop,
    ExtToTensor,
    train_transform,
    val_transform,
)

# Those whose classes are known without any file.
FIXED = {name: cls for name, cls in DATASETS.items() if hasattr(cls, "facts")}


class TwoClasses(FileDataset):
    facts = ClassFacts(
        ("no", "yes"),
        make_palette([(0, 0, 0), (255, 255, 255)]),
        make_label_table({0: 0, 200: 1, 3: 255}),
    )


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
    image, label = dataset(pair)[SampleKey(0, 0, 0)]
    assert image.dtype == label.dtype == torch.uint8
    assert image.shape == (3, 4, 6) and image[:, 0, 0].tolist() == [10, 20, 30]
    assert label.tolist() == [[0, 1, 255, 255, 0, 0]] * 4


def test_without_labels_everything_is_ignored(pair: tuple[Path, Path]) -> None:
    label = TwoClasses([pair[0]], None, ["one"]).load(0)[1]
    assert label.shape == (4, 6) and (label == 255).all()


def test_missing_files_are_named_and_counted(pair: tuple[Path, Path]) -> None:
    gone = pair[0].with_name("gone.png")
    with pytest.raises(FileNotFoundError) as caught:
        TwoClasses([pair[0], pair[0], pair[0]], [pair[1], gone, gone], ["a", "b", "c"])
    line = one_line(caught.value)
    assert f"2 of 3 label files are missing, the first: {gone}" in line
    with pytest.raises(FileNotFoundError, match="1 of 1 image files are missing"):
        TwoClasses([gone], [pair[1]], ["a"])


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds no image"):
        TwoClasses([], [], [])


def test_sizes_must_agree(pair: tuple[Path, Path]) -> None:
    Image.new("L", (5, 4)).save(pair[1])
    with pytest.raises(DataError) as caught:
        dataset(pair).load(0)
    line = one_line(caught.value)
    assert f"{pair[0]} is 6x4" in line and f"{pair[1]} is 5x4" in line


def test_palette_labels_keep_their_indices(pair: tuple[Path, Path]) -> None:
    label = Image.fromarray(np.array([[0, 200, 3, 255, 0, 200]] * 4, dtype=np.uint8))
    label.putpalette([value for i in range(256) for value in (255 - i, i // 2, 7)])
    label.save(pair[1])
    assert Image.open(pair[1]).mode == "P"
    assert dataset(pair).load(0)[1].tolist() == [[0, 1, 255, 255, 0, 1]] * 4


def loader_error(data: TwoClasses, **options: object) -> str:
    """The text of the DataError that a loader ends with."""
    # The traceback would keep the loader alive until the garbage collector, which it makes wait.
    try:
        list(DataLoader(data, batch_size=None, **options))
    except DataError as error:
        return str(error.with_traceback(None))
    raise AssertionError("no DataError")


def test_error_line_survives_a_worker(pair: tuple[Path, Path]) -> None:
    pair[1].write_bytes(b"broken")
    with pytest.raises(DataError) as alone:
        dataset(pair)[0]
    in_worker = loader_error(dataset(pair), num_workers=1)
    assert "\n" in in_worker
    assert data_error_line(DataError(in_worker)) == str(alone.value)


def test_names_and_colors_of_the_datasets() -> None:
    for facts in (cls.facts for cls in FIXED.values()):
        assert len(set(facts.class_names)) == len(facts.class_names)
        assert facts.palette.shape == (256, 3) and facts.palette.dtype == np.uint8
        colors = {tuple(color) for color in facts.palette[: len(facts.class_names)].tolist()}
        assert len(colors) == len(facts.class_names)
        ids = set(facts.label_table.tolist()) - {-1}
        assert ids == {*range(len(facts.class_names)), 255}


@pytest.mark.parametrize("cls", FIXED.values(), ids=FIXED)
def test_encode_and_decode_are_pure(cls: type[SegmentationDataset]) -> None:
    train_ids = (
        np.append(np.arange(len(cls.facts.class_names)), 255).astype(np.uint8).reshape(1, -1)
    )
    kept = train_ids.copy()
    colors = cls.facts.decode(train_ids)
    assert colors.shape == (*train_ids.shape, 3) and colors.dtype == np.uint8
    assert np.array_equal(train_ids, kept)
    assert np.array_equal(cls.facts.decode(torch.from_numpy(train_ids)), colors)
    colors[:] = 1  # the caller's own array, not a view of the palette
    assert cls.facts.palette.max() > 1
    raw = np.array([[255, 0]])
    assert cls.facts.encode(raw)[0, 0] == 255
    assert raw.tolist() == [[255, 0]]
    for wrong in (254, 256, -2):
        with pytest.raises(ValueError, match=f"{wrong} is not a class"):
            cls.facts.encode(np.array([0, wrong]))


def keys(epoch: int) -> list[SampleKey]:
    return [SampleKey(epoch, position, (position * 5) % 12) for position in range(12)]


def digest(dataset: SegmentationDataset, order: list[SampleKey], workers: int) -> list[bytes]:
    loader = DataLoader(dataset, batch_size=4, sampler=order, num_workers=workers)
    return [image.numpy().tobytes() + label.numpy().tobytes() for image, label in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_workers() -> None:
    data = Shapes("train", transform=train_transform(48, color_jitter=0.5), length=12)
    data.seed = 3
    batches = digest(data, keys(0), 0)
    assert batches == digest(data, keys(0), 1) == digest(data, keys(0), 3)
    assert batches != digest(data, keys(1), 0)


def test_augmentation_is_a_function_of_seed_epoch_and_position() -> None:
    def sample(key: SampleKey, seed: int = 0) -> bytes:
        data = Shapes("train", transform=train_transform(48), length=8)
        data.seed = seed
        return data[key][0].numpy().tobytes()

    reference = sample(SampleKey(2, 5, 4))
    assert reference == sample(SampleKey(2, 5, 4))
    assert reference != sample(SampleKey(3, 5, 4))
    assert reference != sample(SampleKey(2, 6, 4))
    assert reference != sample(SampleKey(2, 5, 4), seed=1)


def test_iteration_ends() -> None:
    assert len(list(Shapes("val", length=3))) == 3
    with pytest.raises(IndexError):
        Shapes("val", length=3)[3]


def test_create_dataset_answers_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset 'vok'; allowed: voc, cityscapes, "):
        create_dataset("vok", "train", root=tmp_path)
    with pytest.raises(
        ValueError, match="cityscapes has no split 'trian'; it has train, val, test"
    ):
        create_dataset("cityscapes", "trian", root=tmp_path)
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
    root = tmp_path / "nowhere"
    data = create_dataset("shapes", "val", root=root, transform=train_transform(40), seed=4)
    assert isinstance(data, Shapes) and data.seed == 4
    assert data[0][0].shape == (3, 40, 40)


def numbered(tmp_path: Path, *, bad: Sequence[int], count: int = 6) -> TwoClasses:
    """Images that hold their own number in every pixel; those in `bad` can't be read."""
    images = [tmp_path / f"{number}.png" for number in range(count)]
    for number, path in enumerate(images):
        Image.new("RGB", (4, 4), (number,) * 3).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:50])
    return TwoClasses(images, None, [path.stem for path in images], transform=val_transform())


def numbers(data: TwoClasses, order: Sequence[int | SampleKey], **options: object) -> list:
    """What is in the place of each sample, by a loader."""
    loader = DataLoader(data, batch_size=None, sampler=order, **options)
    return [None if sample is None else int(sample[0][0, 0, 0]) for sample in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, pytest.param(4, marks=pytest.mark.slow)])
def test_bad_files_are_left_out(workers: int, tmp_path: Path) -> None:
    data = numbered(tmp_path, bad=(1, 2, 5))
    data.skip_bad_files = True
    assert data.skip_bad_files and data.bad_indices() == []
    keys = [SampleKey(0, place, index) for place, index in enumerate((3, 1, 5, 0, 2, 4))]
    # Training: the next good one; after the last comes the first.
    expected = [3, 3, 0, 0, 3, 4]
    assert numbers(data, keys, num_workers=workers) == expected
    assert data.bad_indices() == [1, 2, 5]
    # A run that goes on in mid-epoch knows nothing of what was bad before.
    data.skip_bad_files = True
    assert numbers(data, keys[2:], num_workers=workers) == expected[2:]
    # Validation: nothing in its place.
    data.skip_bad_files = True
    assert numbers(data, range(6), num_workers=workers) == [0, None, None, 3, 4, None]
    assert data.bad_indices() == [1, 2, 5]


@pytest.mark.slow  # starts a process that imports all
def test_bad_files_are_known_from_spawned_processes_too(tmp_path: Path) -> None:
    data = numbered(tmp_path, bad=(1,), count=3)
    data.skip_bad_files = True
    found = numbers(data, range(3), num_workers=1, multiprocessing_context="spawn")
    assert found == [0, None, 2] and data.bad_indices() == [1]


def test_a_replaced_sample_keeps_its_own_draws(tmp_path: Path) -> None:
    draws = []

    def transform(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple:
        draws.append(rng.integers(1 << 60))
        return image, label

    data = numbered(tmp_path, bad=(1,), count=3)
    data.transform, data.skip_bad_files = transform, True
    assert int(data[SampleKey(3, 7, 1)][0][0, 0, 0]) == 2
    data[SampleKey(3, 7, 0)]
    data[SampleKey(3, 8, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_bad_files_end_the_run_unless_they_are_to_be_left_out(tmp_path: Path) -> None:
    data = numbered(tmp_path, bad=(1,))
    assert not data.skip_bad_files and data.bad_indices() == []
    with pytest.raises(DataError, match="1.png"):
        data[1]
    with pytest.raises(DataError, match="1.png"):
        data[SampleKey(0, 0, 1)]


@pytest.mark.parametrize("workers", [0, 1])
def test_all_files_bad_is_an_error(workers: int, tmp_path: Path) -> None:
    data = numbered(tmp_path, bad=range(6))
    data.skip_bad_files = True
    error = loader_error(data, sampler=[SampleKey(0, 0, 4)], num_workers=workers)
    line = data_error_line(DataError(error))
    assert line.startswith("none of the 6 samples can be read; the first: cannot read ")
    assert str(data.images[4]) in line and "\n" not in line
    assert numbers(data, [2, 3], num_workers=workers) == [None, None]


def test_notes_are_each_data_sets_own(tmp_path: Path) -> None:
    first, second = numbered(tmp_path, bad=()), numbered(tmp_path, bad=())
    first.notes.append("47 of 468 images validate")
    assert second.notes == []


def draws_of(data: SegmentationDataset, **options: object) -> list[bytes]:
    """The images of one pass of somebody's own loader."""
    return [image.numpy().tobytes() for image, _ in DataLoader(data, batch_size=None, **options)]


class OnePicture(Shapes):
    """The same picture again and again: samples differ by what was drawn alone."""

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return super().load(0)


@pytest.fixture
def same_picture() -> OnePicture:
    return OnePicture("train", transform=train_transform(32), length=8)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_draws_anew_and_torchs_seed_repeats_it(
    workers: int, same_picture: OnePicture
) -> None:
    torch.manual_seed(7)
    epochs = [draws_of(same_picture, num_workers=workers) for _ in range(2)]
    assert len({*epochs[0], *epochs[1]}) == 16  # neither samples, processes nor epochs are alike
    torch.manual_seed(7)
    assert [draws_of(same_picture, num_workers=workers) for _ in range(2)] == epochs
    torch.manual_seed(8)
    assert not {*draws_of(same_picture, num_workers=workers)} & {*epochs[0]}


def test_processes_that_stay_draw_anew_in_each_epoch(same_picture: OnePicture) -> None:
    loader = DataLoader(same_picture, batch_size=None, num_workers=2, persistent_workers=True)
    images = [image.numpy().tobytes() for _ in range(2) for image, _ in loader]
    assert len(set(images)) == 16


def test_a_loaders_own_generator_repeats_its_draws(same_picture: OnePicture) -> None:
    """It seeds the loader's processes; what the global generator is at does not matter then."""

    def draw(seed: int) -> list[bytes]:
        generator = torch.Generator().manual_seed(seed)
        return draws_of(same_picture, num_workers=2, generator=generator)

    assert draw(1) == draw(1) != draw(2)


def test_an_index_draws_anew(same_picture: OnePicture) -> None:
    assert len({same_picture[3][0].numpy().tobytes() for _ in range(5)}) == 5
    torch.manual_seed(3)
    first = same_picture[-1]
    torch.manual_seed(3)
    assert torch.equal(first[0], same_picture[7][0])
    state = torch.get_rng_state()
    key = SampleKey(2, 3, 4)
    assert torch.equal(same_picture[key][0], same_picture.sample(key)[0])
    assert torch.equal(state, torch.get_rng_state())  # a key never draws from there


@pytest.mark.parametrize("key", [0, np.int64(0), -1])
def test_without_a_transform_an_index_gives_pictures(key: int, pair: tuple[Path, Path]) -> None:
    image, label = dataset(pair)[key]
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (6, 4)
    assert image.getpixel((0, 0)) == (10, 20, 30)
    assert isinstance(label, Image.Image)
    assert np.asarray(label).tolist() == [[0, 1, 255, 255, 0, 0]] * 4
    assert label.convert("RGB").getpixel((1, 0)) == (255, 255, 255)  # the color of class 1


def test_a_two_argument_transform_gets_pictures(pair: tuple[Path, Path]) -> None:
    given = []

    def transform(image: Image.Image, label: Image.Image) -> tuple:
        given.append((image.size, image.mode, label.size))
        return np.asarray(image.rotate(180)), np.asarray(label.rotate(180))

    data = TwoClasses([pair[0]], [pair[1]], ["one"], transform=transform)
    for key in (0, SampleKey(0, 0, 0)):
        assert data[key][1].tolist() == [[0, 0, 255, 255, 1, 0]] * 4
    assert given == [((6, 4), "RGB", (6, 4))] * 2


def test_a_two_argument_transform_may_ask_for_arrays(pair: tuple[Path, Path]) -> None:
    def transform(image: np.ndarray, label: np.ndarray) -> tuple:
        return image[:, ::-1], label[:, ::-1]

    data = TwoClasses([pair[0]], [pair[1]], ["one"], transform=transform)
    assert data[0][1].tolist() == [[0, 0, 255, 255, 1, 0]] * 4


def test_other_peoples_transforms_work_beside_ours(pair: tuple[Path, Path]) -> None:
    class Mirror:
        """As in a script for the predecessor: for PIL pictures, with its own draws."""

        def __call__(self, img, lbl):
            return img.transpose(Image.FLIP_LEFT_RIGHT), lbl.transpose(Image.FLIP_LEFT_RIGHT)

    transform = ExtCompose([Mirror(), ExtRandomCrop((4, 6)), ExtToTensor()])
    data = TwoClasses([pair[0]], [pair[1]], ["one"], transform=transform)
    for key in (0, SampleKey(0, 0, 0)):
        image, label = data[key]
        assert image.dtype == torch.float32 and image.shape == (3, 4, 6)
        assert label.tolist() == [[0, 0, 255, 255, 1, 0]] * 4


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
@pytest.mark.parametrize("which", [0, 1])
def test_only_regular_files_are_opened(
    pair: tuple[Path, Path], kind: str, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO that nobody writes to would wait for ever; /dev/zero would never end."""
    data, path = dataset(pair), pair[which]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(path.parent)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(path.name)
    with pytest.raises(DataError) as caught:
        data.load(0)
    assert one_line(caught.value) == f"cannot read {path}: it is not a regular file"
    with pytest.raises(FileNotFoundError, match=r"\(which is no regular file\)$"):
        dataset(pair)
