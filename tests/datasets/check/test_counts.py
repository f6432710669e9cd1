from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DataError, Shapes
from datasets.base import FileDataset, SegmentationDataset
from datasets.check import counts as counts_module
from datasets.check.counts import (
    ClassCounts,
    class_weights,
    count_classes,
    map_samples,
    median_frequency_weights,
)
from datasets.facts import ClassFacts, make_label_table, make_palette

# Three classes and what is ignored, counted by hand:
#   a: 8 pixels of class 0, 2 of class 1, 2 ignored -> 10 labeled
#   b: 5 pixels of class 0, 1 ignored               ->  5 labeled
#   c: 3 pixels of class 1, 7 of class 0            -> 10 labeled
LABELS = {
    "a": [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 255, 255]],
    "b": [[0, 0, 0], [0, 0, 255]],
    "c": [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]],
}
PIXELS, IMAGE_PIXELS, IMAGES = [20, 5, 0], [25, 20, 0], [3, 2, 0]
# Frequencies 20/25 and 5/20, their median 0.525.
WEIGHTS = [0.525 / 0.8, 0.525 / 0.25, 0]


class Three(FileDataset):
    facts = ClassFacts(
        ("wood", "metal", "glass"),
        make_palette([(1, 2, 3)] * 3),
        make_label_table({10: 0, 20: 1, 30: 2}),
    )


@pytest.fixture
def three(tmp_path: Path) -> Three:
    """The labels as files that hold 10 for class 0 and so on; the images are no images."""
    files = {}
    for name, rows in LABELS.items():
        files[name] = tmp_path / f"{name}.png"
        values = np.array([10, 20, 30, *[0] * 252, 255])[np.array(rows)]
        Image.fromarray(values.astype(np.uint8)).save(files[name])
        (tmp_path / f"{name}.jpg").write_bytes(b"counting needs no image")
    return Three([path.with_suffix(".jpg") for path in files.values()], [*files.values()], [*files])


class Lists(SegmentationDataset):
    """A data set of somebody else's: no files, labels as they are."""

    class_names = ("wood", "metal", "glass")

    def __init__(self, labels: list[list[list[int]]]) -> None:
        super().__init__()
        self.arrays = [np.array(label, dtype=np.uint8) for label in labels]

    def __len__(self) -> int:
        return len(self.arrays)

    def sample_name(self, index: int) -> str:
        return f"sample {index}"

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        label = self.arrays[index]
        return np.zeros((*label.shape, 3), np.uint8), label


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["files", "lists"])
def test_counts_are_those_counted_by_hand(three: Three, kind: str, num_workers: int) -> None:
    dataset = three if kind == "files" else Lists(list(LABELS.values()))
    counts = count_classes(dataset, num_workers=num_workers, progress=False)
    assert counts.pixels.tolist() == PIXELS and counts.images.tolist() == IMAGES
    assert counts.image_pixels.tolist() == IMAGE_PIXELS
    assert counts.ignored == 3 and counts.num_images == 3
    weights = median_frequency_weights(counts)
    assert weights.dtype == np.float32
    assert np.allclose(weights, WEIGHTS, rtol=1e-6)


def test_counts_of_large_labels_do_not_overflow() -> None:
    counts = ClassCounts.none(2)
    for _ in range(3):
        counts.add(np.array([2**31, 7, *[0] * 254]))
    assert counts.pixels.tolist() == [3 * 2**31, 21]
    assert counts.image_pixels.tolist() == [3 * 2**31 + 21] * 2


def test_a_balanced_set_of_whole_images_weighs_every_class_the_same() -> None:
    dataset = Lists([[[0, 1, 2]], [[2, 0, 1]]])
    assert median_frequency_weights(count_classes(dataset, num_workers=0)).tolist() == [1, 1, 1]


def test_no_labeled_pixel_gives_no_weights() -> None:
    counts = count_classes(Lists([[[255, 255]]]), num_workers=0)
    with pytest.raises(ValueError, match="the training set has no labeled pixel.*--check_data"):
        median_frequency_weights(counts)


@pytest.mark.parametrize("value", [3, 254])
def test_a_train_id_past_the_classes_is_named_with_its_sample(value: int) -> None:
    with pytest.raises(DataError, match=f"sample 1 has train id {value}; allowed: 0..2 and 255"):
        count_classes(Lists([[[0, 2]], [[0, value]]]), num_workers=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_label_is_an_error_or_left_out_and_then_nothing_is_kept(
    three: Three, tmp_path: Path, num_workers: int
) -> None:
    Image.fromarray(np.full((2, 2), 99, np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: value 99 is not a class") as caught:
        count_classes(three, num_workers=num_workers)
    assert "\n" not in str(caught.value)
    counts = count_classes(three, num_workers=num_workers, skip_bad_files=True)
    assert counts.num_images == 2 and counts.pixels.tolist() == [15, 5, 0]
    _, notes = class_weights(three, kept_in=tmp_path, num_workers=0, skip_bad_files=True)
    assert "counted in 2 labels, not kept: 1 labels could not be read" in notes[0]
    assert not (tmp_path / ".class_counts.json").exists()


def test_a_missing_label_is_left_out(three: Three, tmp_path: Path) -> None:
    three.labels[1].unlink()
    _, notes = class_weights(
        three, kept_in=tmp_path, num_workers=0, progress=False, skip_bad_files=True
    )
    assert "counted in 2 labels, not kept: 1 labels could not be read" in notes[0]


def weigh(dataset: SegmentationDataset, folder: Path) -> tuple[list[float], list[str], bool]:
    """Weights, notes, and whether labels were counted."""
    before = counts_module.count_classes
    calls = []
    try:
        counts_module.count_classes = lambda *a, **k: calls.append(1) or before(*a, **k)
        weights, notes = class_weights(dataset, kept_in=folder, num_workers=0, progress=False)
    finally:
        counts_module.count_classes = before
    return weights.tolist(), notes, bool(calls)


def test_weights_are_counted_once_and_kept_beside_the_data(three: Three, tmp_path: Path) -> None:
    kept = tmp_path / ".class_counts.json"
    weights, notes, counted = weigh(three, tmp_path)
    assert counted and np.allclose(weights, WEIGHTS)
    assert f"counted in 3 labels, kept in {kept}" in notes[0]
    assert "wood 0.656, metal 2.1, glass 0" in notes[0]
    assert notes[1:] == ["never in the training set, so of class weight 0: glass"]
    again, notes, counted = weigh(three, tmp_path)
    assert not counted and again == weights and f"counts of {kept}" in notes[0]
    assert [path.name for path in tmp_path.glob(".*")] == [kept.name]  # no temporary file


def changed_file(three: Three) -> None:
    Image.fromarray(np.full((9, 9), 30, np.uint8)).save(three.labels[0])


def changed_time(three: Three) -> None:
    os.utime(three.labels[0], ns=(1, 1))


def other_samples(three: Three) -> None:
    three.labels = three.labels[:2]
    three.images, three.names = three.images[:2], three.names[:2]


def other_names(three: Three) -> None:
    three.facts = replace(three.facts, class_names=("wood", "glass", "metal"))


def other_values(three: Three) -> None:
    three.facts = replace(three.facts, label_table=make_label_table({10: 1, 20: 0, 30: 2}))


@pytest.mark.parametrize(
    "change", [changed_file, changed_time, other_samples, other_names, other_values]
)
def test_what_changed_is_counted_anew(three: Three, tmp_path: Path, change) -> None:
    weigh(three, tmp_path)
    change(three)
    assert weigh(three, tmp_path)[2]
    assert not weigh(three, tmp_path)[2]


def test_entries_of_other_splits_stay_and_the_oldest_go(three: Three, tmp_path: Path) -> None:
    weigh(three, tmp_path)
    whole = vars(three).copy()
    other_samples(three)
    weigh(three, tmp_path)
    vars(three).update(whole)
    assert not weigh(three, tmp_path)[2]
    for number in range(16):
        names = ("wood", "metal", f"glass {number}")
        three.facts = replace(three.facts, class_names=names)
        weigh(three, tmp_path)
    assert len(json.loads((tmp_path / ".class_counts.json").read_text())["entries"]) == 16
    three.facts = Three.facts
    assert weigh(three, tmp_path)[2]


def test_the_file_stays_valid_where_data_and_all_are_moved(three: Three, tmp_path: Path) -> None:
    weigh(three, tmp_path)
    target = tmp_path.with_name(tmp_path.name + " moved")
    tmp_path.rename(target)
    three.labels = [target / path.name for path in three.labels]
    assert not weigh(three, target)[2]


DEEP = "[" * 100_000
DEEP_ENTRY = '{"a": {"pixels": ' + "[" * 900 + "]" * 900 + "}}"  # almost too deep to be read


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"format": 1}', '{"format": 0, "entries": {}}']
    + ['{"format": 1, "entries": []}', '{"format": 1, "entries": ["ab"]}', DEEP]
    + [f'{{"format": 1, "entries": {entries}}}' for entries in (DEEP, DEEP_ENTRY)],
    ids=range(10),
)
def test_a_damaged_file_is_replaced(three: Three, tmp_path: Path, damage: str) -> None:
    (tmp_path / ".class_counts.json").write_text(damage)
    assert weigh(three, tmp_path)[2]
    assert not weigh(three, tmp_path)[2]


def test_a_file_of_another_format_is_replaced(three: Three, tmp_path: Path) -> None:
    weigh(three, tmp_path)
    path = tmp_path / ".class_counts.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert weigh(three, tmp_path)[2]
    assert not weigh(three, tmp_path)[2]


@pytest.mark.parametrize("wrong", [[1, 2], [1, 2, -3], ["x", 0, 0], None])
def test_a_damaged_entry_is_counted_anew(three: Three, tmp_path: Path, wrong: object) -> None:
    weights = weigh(three, tmp_path)[0]
    path = tmp_path / ".class_counts.json"
    content = json.loads(path.read_text())
    next(iter(content["entries"].values()))["pixels"] = wrong
    path.write_text(json.dumps(content))
    assert weigh(three, tmp_path)[::2] == (weights, True)


def test_what_cannot_be_kept_is_said_and_counted_each_time(
    three: Three, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        weights, notes, counted = weigh(three, tmp_path / "file" / "folder")
        assert counted and np.allclose(weights, WEIGHTS)
        assert "not kept: " in notes[0] and "Not a directory" in notes[0]

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    assert "No space left on device" in weigh(three, tmp_path)[1][0]
    assert list(tmp_path.glob(".*")) == []


def test_a_data_set_without_files_is_not_kept(tmp_path: Path) -> None:
    dataset = Shapes("train", length=4, size=(32, 32))
    for _ in range(2):
        _, notes, counted = weigh(dataset, tmp_path)
        assert counted and "not kept: this data set has no label files" in notes[0]
    assert list(tmp_path.iterdir()) == []


def _square_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def _fail(number: int) -> int:
    raise RuntimeError("not of a loader process")


def test_results_come_in_order_and_a_killed_process_is_one_line() -> None:
    def mapped(num_samples: int, num_workers: int) -> list[int]:
        name_of = "sample {}".format
        return list(
            map_samples(
                _square_or_die, num_samples, name_of=name_of, num_workers=num_workers, title=None
            )
        )

    assert mapped(3, 0) == mapped(3, 2) == mapped(2, 3) + [4] == [0, 1, 4]
    with pytest.raises(DataError, match=r"died at one of the 2 samples from sample \d on"):
        mapped(9, 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_function_is_no_ended_process(num_workers: int) -> None:
    with pytest.raises(RuntimeError, match="not of a loader process"):
        list(map_samples(_fail, 1, name_of=str, num_workers=num_workers, title=None))


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_counts_are_kept_in_a_regular_file_only(three: Three, tmp_path: Path, kind: str) -> None:
    """A FIFO would wait for ever, and is not ours to delete."""
    path = tmp_path / ".class_counts.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for _ in range(2):
        weights, notes, counted = weigh(three, tmp_path)
        assert counted and np.allclose(weights, WEIGHTS)
        assert f"not kept: {path}: it is not a regular file" in notes[0]
    assert path.exists() and not path.is_file()
