"""What counts as an image, and which folders are searched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datasets import DataError
from datasets.image_finder import find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_images_and_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/x.png", "a/x.webp", "c.tiff")
    touch(tmp_path, "film.mpg", "draw.wmf", "draw.eps", "a/notes.txt", "none")
    touch(tmp_path, ".hidden.png", ".hidden/y.png")
    images, others = find_images(tmp_path)
    assert names(tmp_path, images) == ["a/x.png", "a/x.webp", "b.JPG", "c.tiff"]
    assert names(tmp_path, others) == ["a/notes.txt", "draw.eps", "draw.wmf", "film.mpg", "none"]


def test_a_folder_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/masks/b.png")
    (tmp_path / "masks").symlink_to(tmp_path / "in" / "masks")
    images, _ = find_images(tmp_path / "in", leave_out=[os.path.realpath(tmp_path / "masks")])
    assert names(tmp_path, images) == ["in/a.png"]


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "in/one/a.png", "elsewhere/b.png")
    (tmp_path / "in/one/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in/one")
    (tmp_path / "in/itself.png").symlink_to("itself.png")
    images, others = find_images(tmp_path / "in")
    assert names(tmp_path / "in", images) == [
        "itself.png", "one/a.png", "two/b.png", "two/back/a.png"
    ]  # fmt: skip
    assert others == []


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    with pytest.raises(DataError, match=f"cannot list the folder {tmp_path / 'a'}: Not a dir"):
        find_images(tmp_path / "a")
