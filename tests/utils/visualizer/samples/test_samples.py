"""Samples: which images are chosen, what their numbers are, and that files give them back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.visualizer.pictures import legend
from utils.visualizer.samples.files import delete_samples, load_samples, save_samples
from utils.visualizer.samples.selection import (
    SampleSelection,
    ValidatedSample,
    image_scores,
    rows_of_interest,
    worst_first,
)
from utils.visualizer.samples.sheets import batch_sheet, sample_row, sample_sheet

PALETTE = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)


def sample(name: str, miou: float, *, size: tuple[int, int] = (6, 8), **more) -> ValidatedSample:
    rng = np.random.default_rng(len(name))
    return ValidatedSample(
        name,
        np.full((*size, 3), 120, np.uint8),
        rng.integers(0, 3, size, dtype=np.uint8),
        rng.integers(0, 3, size, dtype=np.uint8),
        miou,
        wrong=0.25,
        **more,
    )


def chosen(scores: list[float], num_samples: int) -> list[tuple[str, bool]]:
    selection = SampleSelection(range(len(scores)), num_samples)
    for index, score in enumerate(scores):
        selection.add(index, score, lambda i=index, s=score: sample(f"{i}", s))
    return [(s.name, s.is_fixed) for s in selection.samples()]


SCORES = [0.5, 0.4, 0.1, 0.6, 0.9, math.nan, 0.3, 0.5]


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (0, []),
        (1, [("0", True)]),
        (2, [("0", True), ("2", False)]),
        (3, [("0", True), ("7", True), ("2", False)]),
        (4, [("0", True), ("7", True), ("2", False), ("4", False)]),
        (8, [(str(i), True) for i in range(8)]),
        (20, [(str(i), True) for i in range(8)]),
    ],
)
def test_fixed_images_and_the_worst_and_the_best(num_samples: int, expected: list) -> None:
    assert chosen(SCORES, num_samples) == expected


def test_the_only_image_left_is_worst_and_best_once() -> None:
    assert chosen([0.1, 0.5, math.nan, math.nan, 0.2], 4)[2:] == [("1", False)]
    assert chosen([math.nan] * 5, 4) == [("0", True), ("4", True)]
    assert chosen([], 4) == []


def test_rows_of_interest_are_two_fixed_ones_the_worst_and_the_best() -> None:
    four = [sample(n, m) for n, m in (("a", 0.5), ("b", 0.4), ("c", 0.7), ("d", math.nan))]
    extremes = [sample("w", 0.1, is_fixed=False), sample("b", 0.9, is_fixed=False)]
    names = [s.name for s in rows_of_interest([*four, *extremes])]
    assert names == ["a", "b", "w", "b"]
    assert [s.name for s in rows_of_interest(four)] == ["a", "d", "b", "c"]
    assert [s.name for s in rows_of_interest(four[:1])] == ["a"]
    assert [s.name for s in worst_first(four)] == ["b", "a", "c", "d"]


def test_image_scores_are_over_the_classes_of_the_target() -> None:
    counts = np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]])  # class 1 is only predicted
    miou, wrong = image_scores(counts)
    assert miou == pytest.approx((6 / 9 + 3 / 4) / 2)
    assert wrong == pytest.approx(3 / 12)
    assert all(map(math.isnan, image_scores(np.zeros((2, 2), np.int64))))


def test_wide_samples_are_scaled_and_labels_keep_their_ids() -> None:
    wide = sample("wide", 0.5, size=(500, 2000))
    small = wide.scaled()
    assert small.image.shape == (128, 512, 3) and small.scale == pytest.approx(0.256)
    assert set(np.unique(small.target)) <= {0, 1, 2} and small.miou == 0.5
    assert small.scaled() is small


def test_files_give_the_samples_back(tmp_path: Path) -> None:
    first = sample("../../town/x", math.nan)
    second = sample("x" * 300, 0.75, scale=0.5, is_fixed=False)
    save_samples(tmp_path, 100, [first, second], ["a", "b", "c"], PALETTE)
    back = load_samples(tmp_path, 100)
    assert [(s.name, s.scale, s.is_fixed) for s in back] == [
        (first.name, 1.0, True),
        (second.name, 0.5, False),
    ]
    assert math.isnan(back[0].miou) and back[1].miou == 0.75 and back[1].wrong == 0.25
    for was, now in zip([first, second], back, strict=True):
        assert np.array_equal(was.target, now.target)
        assert np.array_equal(was.prediction, now.prediction)
        assert abs(was.image.astype(int) - now.image).max() < 6  # JPEG
    assert {path.name for path in tmp_path.iterdir()} == {"000100", "000100.jpg"}
    assert load_samples(tmp_path, 200) == []


@pytest.mark.parametrize(
    "text", ["[", "[" * 100_000, "7", "[7]", "{}", '[{"file": "0_a"}]', '[{"file": 5}]']
)
def test_damaged_samples_are_one_line(text: str, tmp_path: Path) -> None:
    save_samples(tmp_path, 100, [sample("a", 0.5)], ["a", "b", "c"], PALETTE)
    (tmp_path / "000100" / "samples.json").write_text(text)
    if text == "{}":
        assert load_samples(tmp_path, 100) == []
        return
    with pytest.raises(ValueError, match="000100 is damaged .*delete that folder"):
        load_samples(tmp_path, 100)


def test_a_damaged_picture_is_one_line(tmp_path: Path) -> None:
    save_samples(tmp_path, 100, [sample("a", 0.5)], ["a", "b", "c"], PALETTE)
    Image.new("L", (3, 3)).save(tmp_path / "000100" / "0_a_pred.png")
    with pytest.raises(ValueError, match="differ in size"):
        load_samples(tmp_path, 100)
    facts = json.loads((tmp_path / "000100" / "samples.json").read_text())
    assert facts[0]["name"] == "a" and facts[0]["miou"] == 0.5


def test_only_own_files_are_deleted(tmp_path: Path) -> None:
    for step in (100, 1_000_000):
        save_samples(tmp_path, step, [sample("a", 0.5)], ["a", "b", "c"], PALETTE)
    (tmp_path / "mine.png").write_bytes(b"kept")
    delete_samples(tmp_path, keep=[1_000_000])
    kept = {"1000000", "1000000.jpg", "mine.png"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    delete_samples(tmp_path / "absent")


def test_a_row_has_four_panels_under_headings() -> None:
    shown = sample("name", 0.5, size=(30, 300))
    row = sample_row(shown, PALETTE)
    assert row.shape == (30 + 24, 4 * 300 + 3 * 8, 3)
    headings = row[:24].min(axis=(0, 2))
    for panel in range(4):
        assert headings[308 * panel : 308 * panel + 100].min() < 80  # dark text
    assert np.array_equal(row[24:, :300], shown.image)
    wrong = shown.target != shown.prediction
    assert (row[24:, 924:][wrong] == (213, 94, 0)).all()


def test_a_sheet_of_small_samples_is_enlarged_and_has_a_legend() -> None:
    sheet = sample_sheet([sample("a", 0.5), sample("b", 0.6)], ["a", "b", "c"], PALETTE)
    assert sheet.shape[1] == 4 * 264 + 3 * 8 + 2 * 8
    legend = sheet[8:32].reshape(-1, 3)
    for color in PALETTE[:3]:
        assert (legend == color).all(axis=1).sum() >= 150
    assert sample_sheet([], ["a"], PALETTE).shape[2] == 3


def test_a_batch_is_pairs_of_image_and_labels_under_a_legend() -> None:
    images = np.full((20, 130, 260, 3), 200, np.uint8)
    labels = np.zeros((20, 130, 260), np.uint8)
    labels[0] = 255
    sheet = batch_sheet(images, labels, ["a", "b"], PALETTE)
    pair = 2 * 260 + 6
    assert sheet.shape == (8 + 24 + 8 + 6 * (130 + 8), 3 * pair + 2 * 24 + 2 * 8, 3)  # 16 pairs
    assert (sheet[40 + 60, 8 + 300] == 200).all()  # ignored pixels show the image,
    strip = legend(["a", "b"], PALETTE, [0], 3 * pair + 2 * 24)
    assert (sheet[8:32, 8:-8] == strip).all()  # and are not in the legend
    mixed = np.rint(0.4 * 200 + 0.6 * PALETTE[0])
    assert (sheet[40 + 60, 8 + pair + 24 + 300] == mixed).all()
