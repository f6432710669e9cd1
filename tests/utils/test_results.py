"""Masks and results as files: what they hold, and that none is ever half written."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import results

PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
KINDS = ("target", "pred", "image", "overlay")


def save(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Save a result of random pixels; gives back what it was made of."""
    rng = np.random.default_rng(seed)
    planes = {
        "image": rng.integers(0, 256, (8, 9, 3), dtype=np.uint8),
        "target": rng.integers(0, 5, (8, 9), dtype=np.uint8),
        "prediction": rng.integers(0, 5, (8, 9), dtype=np.uint8),
    }
    results.save_result(folder, "town/x", **planes, palette=PALETTE)
    return planes


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "town").iterdir()}


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


@pytest.mark.parametrize("number", range(len(KINDS)))
@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_whole_files_only(
    number: int, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of one of the four pictures."""
    save(tmp_path / "new", 1)
    new, old = contents(tmp_path / "new"), {}
    if exists:
        save(tmp_path / "run", 0)
        old = contents(tmp_path / "run")
    original, calls = Path.write_bytes, []

    def filling(path: Path, data: bytes) -> None:
        calls.append(path)
        original(path, data[:20] if len(calls) - 1 == number else data)
        if len(calls) - 1 == number:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_bytes", filling)
        save(tmp_path / "run", 1)
    found = contents(tmp_path / "run")
    assert {name for name in found if found[name] != old.get(name)} == {
        f"x_{kind}.png" for kind in KINDS[:number]
    }
    assert found.keys() == old.keys() | {f"x_{kind}.png" for kind in KINDS[:number]}
    assert all(found[name] in (new[name], old.get(name)) for name in found)


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    results.save_mask(path, np.zeros((2, 2), np.uint8), PALETTE)
    assert list(tmp_path.iterdir()) == [path]
