"""Pictures: what is drawn, what the files hold, and that none is ever half written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.visualizer import pictures
from utils.visualizer.pictures import overlay, save_image, save_mask, save_result, side_by_side

PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
PALETTE[1] = (200, 100, 0)
KINDS = ("target", "pred", "image", "overlay")


def save(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Save a result of random pixels; gives back what it was made of."""
    rng = np.random.default_rng(seed)
    planes = {
        "image": rng.integers(0, 256, (64, 65, 3), dtype=np.uint8),
        "target": rng.integers(0, 5, (64, 65), dtype=np.uint8),
        "prediction": rng.integers(0, 5, (64, 65), dtype=np.uint8),
    }
    save_result(folder, "town/x", **planes, palette=PALETTE)
    return planes


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "town").iterdir()}


def test_overlay() -> None:
    ids = np.array([[0, 1], [255, 1]], np.uint8)
    image = np.full((2, 2, 3), 100, np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[255] = (200, 100, 0), (255, 255, 255)
    mixed = overlay(image, ids, palette)
    assert mixed.dtype == np.uint8
    assert mixed.tolist() == [[[50, 50, 50], [150, 100, 50]], [[100, 100, 100], [150, 100, 50]]]
    assert np.array_equal(overlay(image, ids, palette, alpha=0.0), image)
    assert overlay(image, ids, palette, alpha=1.0)[0, 1].tolist() == [200, 100, 0]
    assert np.array_equal(image, np.full((2, 2, 3), 100))
    with pytest.raises(ValueError, match="differ"):
        overlay(image, ids[:1], palette)


def test_side_by_side() -> None:
    left, right = np.zeros((3, 4, 3), np.uint8), np.full((3, 5, 3), 7, np.uint8)
    joined = side_by_side([left, right], gap=2)
    assert joined.shape == (3, 11, 3)
    assert joined[1, :, 0].tolist() == [0] * 4 + [255] * 2 + [7] * 5


def test_the_suffix_decides_the_kind_of_file(tmp_path: Path) -> None:
    pixels = np.full((4, 6, 3), 90, np.uint8)
    for name, kind in (("new/a.png", "PNG"), ("new/a.jpg", "JPEG")):
        save_image(tmp_path / name, pixels)
        with Image.open(tmp_path / name) as image:
            assert image.format == kind and np.array_equal(image, pixels)


def test_a_result_is_four_pictures(tmp_path: Path) -> None:
    planes = save(tmp_path, 0)
    found = {kind: Image.open(tmp_path / "town" / f"x_{kind}.png") for kind in KINDS}
    assert contents(tmp_path).keys() == {f"x_{kind}.png" for kind in KINDS}
    assert np.array_equal(found["image"], planes["image"])
    assert np.array_equal(found["target"], planes["target"])
    assert np.array_equal(found["pred"], planes["prediction"])
    assert np.array_equal(found["pred"].convert("RGB"), PALETTE[planes["prediction"]])
    half = (planes["image"].astype(int) + PALETTE[planes["prediction"]]) / 2
    assert abs(np.asarray(found["overlay"]) - half).max() <= 0.5


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_whole_files_only(exists: bool, tmp_path: Path) -> None:
    """The system refuses the end of the third picture, as a full disk does."""
    save(tmp_path / "new", 1)
    new, old = contents(tmp_path / "new"), {}
    if exists:
        save(tmp_path / "run", 0)
        old = contents(tmp_path / "run")
    limit = 5000
    assert all((len(new[f"x_{kind}.png"]) > limit) == (kind in KINDS[2:]) for kind in KINDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(tmp_path / "run", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    written = {f"x_{kind}.png": new[f"x_{kind}.png"] for kind in KINDS[:2]}
    assert contents(tmp_path / "run") == old | written


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    save_mask(path, np.zeros((2, 2), np.uint8), PALETTE)
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_need_no_matplotlib() -> None:
    script = "import sys, utils.visualizer.pictures; sys.exit('matplotlib' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", script], cwd=root).returncode == 0


class CountingFont:
    """Letters of 7 pixels; counts how many were measured."""

    measured = 0

    def getlength(self, text: str) -> float:
        CountingFont.measured += len(text)
        return 7.0 * len(text)


def test_long_names_are_cut_without_measuring_them_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "font", CountingFont)
    for text in ("x" * 5000, "y" * 50_000, "short"):
        CountingFont.measured = 0
        shown = pictures.fitted(text, 170)
        assert len(shown) == min(len(text), 24) and shown[:2] == text[:2]
        assert CountingFont.measured < 20_000
    assert shown == "short"


def test_contours_have_the_full_color() -> None:
    ids = np.zeros((4, 6), np.uint8)
    ids[:, 3:] = 1
    image = np.full((4, 6, 3), 100, np.uint8)
    mixed = overlay(image, ids, PALETTE, alpha=0.0, contours=True)
    assert (mixed[:, 2] == PALETTE[0]).all()  # the last column of the left class
    assert (np.delete(mixed, 2, axis=1) == 100).all()


def test_an_error_map_is_vermilion_where_wrong_and_white_where_ignored() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    found = pictures.error_map(image, np.array([[0, 255, 1]]), np.array([[0, 0, 0]]))
    assert found.tolist() == [[[185] * 3, [255] * 3, [213, 94, 0]]]


def test_a_legend_wraps_and_cuts_long_names() -> None:
    names = ["a" * 200, "b", "c"]
    strip = pictures.legend(names, PALETTE, [0, 1, 2, 255], 150)
    assert strip.shape == (3 * 24, 150, 3)
    for line, color in ((0, PALETTE[0]), (1, PALETTE[1]), (1, PALETTE[2])):
        assert (strip[24 * line : 24 * line + 24].reshape(-1, 3) == color).all(axis=1).sum() > 150
