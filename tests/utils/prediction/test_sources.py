"""Which images are found, where their files go, and what is never overwritten."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.utils.prediction.conftest import Predict, files_in, read


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["{}"], ["c.png", "d.png", "town/a.png", "town/b.png"]),
        (["{}/c.png"], ["c.png"]),
        (["{}/c.png", "{}/d.jpg"], ["c.png", "d.png"]),
        (["{}/d.jpg", "{}/town"], ["d.png", "town/a.png", "town/b.png"]),
        (["{}/town", "{}", "{}/c.png"], ["c.png", "d.png", "town/a.png", "town/b.png"]),
        (["{}/town/../c.png", "{}/c.png"], ["c.png"]),
        (["{}/*.png"], ["c.png"]),
        (["{}/*/*.png"], ["a.png", "b.png"]),
        (["{}/**/[bc].png"], ["c.png", "town/b.png"]),
        (["{}/c*"], ["c.png"]),
    ],
)
def test_files_folders_and_patterns(
    inputs: list[str], expected: list[str], call: Predict, images: Path, tmp_path: Path
) -> None:
    (images / "c.txt").write_text("not an image")
    assert call("--input", *(text.format(images) for text in inputs)) == 0
    assert files_in(tmp_path / "masks") == expected


def test_images_of_one_name_in_several_folders(call: Predict, images: Path, tmp_path: Path) -> None:
    (images / "city").mkdir()
    shutil.copy(images / "c.png", images / "city" / "a.png")
    assert call("--input", images / "town" / "a.png", images / "city" / "a.png") == 0
    assert files_in(tmp_path / "masks") == ["city/a.png", "town/a.png"]


@pytest.mark.parametrize(
    ("name", "line"), [("x.png", "x.png does not exist"), ("*.tif", "*.tif matches no image")]
)
def test_an_input_that_names_nothing(name: str, line: str, call, images: Path, capsys) -> None:
    assert call("--input", images, images / name) == 2
    assert f"--input {images}/{line}" in capsys.readouterr().err


def test_pictures_do_not_take_the_place_of_masks(call, images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "d.jpg", images / "c_rgb.png")
    assert call("--input", images, "--rgb", "--confidence") == 0
    found = files_in(tmp_path / "masks")
    assert len(found) == len(set(found)) == 15
    assert {"c.png", "c_rgb.png"} <= set(found)


@pytest.mark.parametrize(("length", "more"), [(251, ["--overlay"]), (255, [])])
def test_a_name_that_gets_too_long_is_left_out(
    length: int, more: list[str], call: Predict, images: Path, tmp_path: Path, capsys
) -> None:
    """A .jpg beside a .png of the same stem keeps its suffix, so its mask's name is longer."""
    for suffix in (".png", ".jpg"):
        shutil.copy(images / "c.png", images / ("n" * (length - 4) + suffix))
    assert call("--input", images, *more) == 1
    error = capsys.readouterr().err
    assert (
        error.count("is too long for a file's name; rename the image") == 2
        and "Traceback" not in error
    )
    masks = [name for name in files_in(tmp_path / "masks") if name.endswith(".png")]
    assert masks == ["c.png", "d.png", "town/a.png", "town/b.png"]


def test_what_is_no_regular_file_is_named(call: Predict, images: Path, tmp_path, capsys) -> None:
    os.mkfifo(images / "fifo.png")
    (images / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(images / "socket.png"))
        assert call("--input", images) == 1
    assert capsys.readouterr().err.count("it is not a regular file") == 3
    assert files_in(tmp_path / "masks") == ["c.png", "d.png", "town/a.png", "town/b.png"]
    assert call("--input", images / "fifo.png", "--output", tmp_path / "m2") == 1


def test_a_folder_that_cannot_be_read_is_named(
    call: Predict, images: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "town":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert call("--input", images) == 1
    assert f"cannot list the folder {images / 'town'}: Permission" in capsys.readouterr().err
    assert files_in(tmp_path / "masks") == ["c.png", "d.png"]


def test_resuming_writes_what_is_missing(call: Predict, images: Path, tmp_path, capsys) -> None:
    masks = tmp_path / "masks"
    assert call("--input", images / "town", "--rgb") == 0
    (masks / "a.png").unlink()
    (masks / "b_rgb.png").write_bytes(b"kept")
    capsys.readouterr()
    assert call("--input", images / "town", "--rgb") == 2
    assert call("--input", images / "town", "--rgb", "--resume") == 0
    assert "1 of 2 images have all their files" in capsys.readouterr().out
    assert files_in(masks) == ["a.png", "a_rgb.png", "b.png", "b_rgb.png"]
    assert (masks / "b_rgb.png").read_bytes() == b"kept" and read(masks / "a.png").shape == (48, 64)
    assert call("--input", images / "town", "--rgb", "--resume") == 0


@pytest.mark.parametrize("option", ["--summary", "--labels"])
def test_tables_over_all_images_are_not_resumed(option: str, call, images: Path, capsys) -> None:
    assert call("--input", images, "--resume", option, "x") == 2
    assert f"{option} is over all images" in capsys.readouterr().err


def test_an_input_is_never_a_file_that_is_done(call: Predict, images: Path, capsys) -> None:
    before = (images / "c.png").read_bytes()
    assert call("--input", images / "c.png", "--output", images, "--resume") == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (images / "c.png").read_bytes() == before
