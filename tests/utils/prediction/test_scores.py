"""Scores against labels: which file belongs to which image, and what its values mean."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import Cityscapes
from tests.utils.prediction.conftest import Predict, files_in, read

PERFECT = "Mean IoU: 1.000000"


@pytest.fixture
def masks(call: Predict, images: Path, tmp_path: Path) -> Path:
    """What the network predicts for `images`: labels for which it is perfect."""
    assert call("--input", images) == 0
    return tmp_path / "masks"


def score(call: Predict, images: Path, labels: Path) -> int:
    return call("--input", images, "--labels", labels, "--output", images.parent / "again")


def change(folder: Path, table: np.ndarray, ending: str = "") -> None:
    """Replace each label's values, and give its name an ending."""
    for name in files_in(folder):
        label = table[read(folder / name)].astype(np.uint8)
        (folder / name).unlink()
        Image.fromarray(label).save((folder / name).with_stem(Path(name).stem + ending))


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_ids_of_classes(ending: str, call: Predict, images: Path, masks: Path, capsys) -> None:
    change(masks, np.arange(256), ending)
    assert score(call, images, masks) == 0
    out = capsys.readouterr().out
    assert PERFECT in out and "scores of 4 images" in out and "sidewalk" in out


def test_wrong_pixels_are_counted(call: Predict, images: Path, masks: Path, capsys) -> None:
    label = read(masks / "c.png")
    label[:12] = (label[:12] + 1) % 19
    Image.fromarray(label).save(masks / "c.png")
    assert score(call, images / "c.png", masks) == 0
    assert "Overall Acc: 0.750000" in capsys.readouterr().out


def test_ids_of_cityscapes(call: Predict, images: Path, masks: Path, capsys) -> None:
    ids = Cityscapes.to_label_ids(np.arange(256))
    change(masks, ids, "_gtFine_labelIds")
    for name in files_in(masks):  # beside them lie others, as in gtFine
        shutil.copy(masks / name, masks / name.replace("labelIds", "instanceIds"))
    for name in files_in(images):
        path = images / name
        path.rename(path.with_stem(f"{path.stem}_leftImg8bit"))
    assert score(call, images, masks) == 0
    assert PERFECT in capsys.readouterr().out


def test_values_and_colors_of_a_class_list(call, images: Path, masks: Path, capsys) -> None:
    names = Cityscapes.facts.class_names
    lines = [f"{name},{3 * index}" for index, name in enumerate(names)]
    (masks.parent / "classes.csv").write_text("\n".join(["name,value", *lines]))
    change(masks, 3 * np.arange(256))
    assert score(call, images, masks) == 0
    assert PERFECT in capsys.readouterr().out


def test_a_list_of_other_classes_is_not_used(call, images: Path, masks: Path, capsys) -> None:
    (masks / "classes.txt").write_text("cat\ndog\n")
    assert score(call, images, masks) == 0
    out = capsys.readouterr().out
    assert PERFECT in out and "lists other classes than the checkpoint" in out


def test_bad_labels_are_named_and_the_rest_is_scored(call, images: Path, masks, capsys) -> None:
    Image.new("L", (60, 48)).save(masks / "c.png")
    Image.new("L", (240, 48), 77).save(masks / "d.png")
    (masks / "town" / "a.png").unlink()
    assert score(call, images, masks) == 1
    out, error = capsys.readouterr()
    assert "c.png is 60x48, but" in error and "value 77 is not a class" in error
    assert error.count("not scored") == 3 and "a.*" in error
    assert "scores of 1 images" in out and PERFECT in out
    assert len(files_in(images.parent / "again")) == 4


def test_labels_of_a_turned_image_are_not_scored(call, images: Path, masks, capsys) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(images / "c.png").save(images / "c.png", exif=exif)
    assert score(call, images, masks) == 1
    assert "its label belongs to stored pixels" in capsys.readouterr().err


def test_no_label_at_all(call: Predict, images: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "labels").mkdir()
    assert score(call, images, tmp_path / "labels") == 2
    assert "4 of 4 images have no label" in capsys.readouterr().err
    assert score(call, images, tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().err
