from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.visualizer import SCORE
from utils.visualizer.figures import occurring, save_confusion, save_curves, smooth


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def cells(path: Path, k: int, *, at: float = 0.2) -> np.ndarray:
    """Color of each cell (k, k, 3), away from the numbers, the plot found by its black frame."""
    image = pixels(path)
    black = (image == 0).all(axis=2)
    rows = np.flatnonzero(black.sum(axis=1) > 0.5 * image.shape[1])
    columns = np.flatnonzero(black.sum(axis=0) > 0.5 * image.shape[0])
    # The first frame from the left is the matrix, the second the color bar.
    top, bottom, left = rows[0], rows[-1], columns[0]
    right = left + (bottom - top)  # it is square
    y = (top + (np.arange(k) + at) * (bottom - top) / k).astype(int)
    x = (left + (np.arange(k) + at) * (right - left) / k).astype(int)
    return image[y[:, None], x[None, :]]


@pytest.mark.parametrize("k", [8, 21])
def test_confusion_cells_have_the_color_of_their_share(tmp_path: Path, k: int) -> None:
    counts = np.zeros((k, k), np.int64)
    counts[np.arange(k), np.arange(k)] = 10**9  # large, so that the share and not the count rules
    counts[0] = 0
    counts[0, 2] = 3  # row 0 is all wrong, with three pixels
    counts[1] = 0  # does not occur, so it is left out
    counts[4, 3] = 10**9  # row 4 is half right
    save_confusion(counts, [f"class {i}" for i in range(k)], tmp_path / "c.png")
    others = np.arange(k) != 1
    colors = np.zeros((k, k, 3), int)
    colors[np.ix_(others, others)] = cells(tmp_path / "c.png", k - 1)
    full, empty = colors[5, 5], colors[5, 6]
    assert full.sum() < 200 and empty.sum() > 720  # dark and nearly white
    assert np.array_equal(colors[0, 2], full)
    assert np.array_equal(colors[2, 0], empty)  # rows are the ground truth
    assert np.array_equal(colors[0, 0], empty)
    assert np.array_equal(colors[4, 4], colors[4, 3])
    assert full.sum() < colors[4, 4].sum() < empty.sum()


@pytest.mark.parametrize("k", [1, 2, 8, 19, 40])
def test_confusion_grows_with_its_classes(tmp_path: Path, k: int) -> None:
    counts = np.random.default_rng(0).integers(0, 10**6, (k, k))
    save_confusion(counts, [f"class {i}" for i in range(k)], tmp_path / "c.png")
    height, width = pixels(tmp_path / "c.png").shape[:2]
    assert min(height, width) >= max(300, 40 * k)
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


def test_confusion_of_nothing_and_names_with_formula_signs(tmp_path: Path) -> None:
    save_confusion(np.zeros((3, 3), np.int64), ["a$b", "$\\frac$", "c"], tmp_path / "c.png")
    assert pixels(tmp_path / "c.png").std() > 1  # it says that there is nothing
    save_confusion(np.eye(2, dtype=np.int64), ["a$b", "\\frac"], tmp_path / "c.png", title="$_{$")


def test_a_class_occurs_in_the_ground_truth_or_in_the_predictions() -> None:
    rows, columns, _ = occurring(np.array([[5, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert (rows.tolist(), columns.tolist()) == ([0], [0, 1])


def test_confusion_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\).*2 class names"):
        save_confusion(np.zeros((3, 3), np.int64), ["a", "b"], tmp_path / "c.png")


def entries(num: int, *, loss: float = 1.0) -> list[dict]:
    training = [{"step": s, "loss": loss / s, "lr": 0.1 / s} for s in range(1, num + 1)]
    return [*training, {"step": num, SCORE: 0.5, "Overall Acc": 0.75}]


@pytest.mark.parametrize(
    "history",
    [
        [],
        entries(1),
        entries(3000),
        [{"step": 10**8, "loss": 1e12, "lr": 1e-6}],
        [{"step": 1, "loss": None, SCORE: None}],
        [{"step": 1, "table": "classes", "rows": []}],
    ],
    ids=["none", "one", "many", "large", "not finite", "table only"],
)
def test_curves_of_any_history(tmp_path: Path, history: list[dict]) -> None:
    save_curves(history, tmp_path / "new" / "curves.png")
    assert pixels(tmp_path / "new" / "curves.png").shape == (1000, 1000, 3)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_curves_show_the_data(tmp_path: Path) -> None:
    def changed(other: list[dict]) -> tuple[bool, bool, bool]:
        """Whether the upper (loss), middle (scores), lower (lr) part differ from the usual."""
        save_curves(entries(50), tmp_path / "a.png")
        save_curves(other, tmp_path / "b.png")
        differs = (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any(axis=(1, 2))
        return differs[:340].any(), differs[380:690].any(), differs[830:].any()

    usual = entries(50)
    assert changed(usual) == (False, False, False)
    spike = [*usual[:20], {**usual[20], "loss": 0.9}, *usual[21:]]
    assert changed(spike) == (True, False, False)
    assert changed([*usual[:-1], {**usual[-1], SCORE: 0.25}]) == (False, True, False)
    assert changed([*usual[:20], {**usual[20], "lr": 0.09}, *usual[21:]]) == (False, False, True)


def test_smooth() -> None:
    assert smooth([2.0] * 9, span=4) == pytest.approx([2.0] * 9)
    # span 3 halves the weight of the past: (1/2 * 0 + 1) / (1/2 + 1)
    assert smooth([0.0, 1.0], span=3) == pytest.approx([0.0, 2 / 3])
    values = smooth([1.0, float("nan"), float("inf"), 1.0], span=3)
    assert values[[0, 3]] == pytest.approx([1.0, 1.0]) and np.isnan(values[1:3]).all()
