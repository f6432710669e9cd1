"""What is in the files that predict.py writes."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import network
from datasets import Cityscapes
from tests.utils.prediction.conftest import Predict, files_in, read

PALETTE = Cityscapes.facts.palette


def probabilities(model: torch.nn.Module, path: Path) -> np.ndarray:
    """(C,H,W), in the plain way."""
    image = torch.from_numpy(read(path)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return model(network.Normalize((0.5,) * 3, (0.2,) * 3)(image)).softmax(1)[0].numpy()


def test_every_file_of_an_image(model, call: Predict, images: Path, tmp_path: Path) -> None:
    assert call("--input", images / "d.jpg", "--overlay", "--rgb", "--confidence") == 0
    masks, expected = tmp_path / "masks", probabilities(model, images / "d.jpg")
    assert files_in(masks) == ["d.png", "d_confidence.png", "d_overlay.jpg", "d_rgb.png"]
    labels = read(masks / "d.png")
    assert np.array_equal(labels, expected.argmax(0))
    assert np.array_equal(read(masks / "d_rgb.png"), PALETTE[labels])
    confidence = read(masks / "d_confidence.png")
    assert confidence.dtype == np.uint8
    assert np.abs(confidence - 255 * expected.max(0)).max() <= 0.501
    overlay = read(masks / "d_overlay.jpg")
    assert overlay.shape[0] > 48 and overlay.shape[1] == 240  # the legend is below
    mixed = (read(images / "d.jpg") / 2 + PALETTE[labels] / 2)[:40]
    assert np.abs(overlay[:40] - mixed).mean() < 20  # JPEG


def test_alpha_and_contours(call: Predict, images: Path, tmp_path: Path) -> None:
    for number, alpha in enumerate((0, 1)):
        output = tmp_path / str(number)
        call("--input", images / "c.png", "--overlay", "--alpha", alpha, "--output", output)
    plain, colors = (read(tmp_path / name / "c_overlay.jpg") for name in "01")
    assert plain.shape == (48, 64, 3)  # too narrow for a legend
    assert np.abs(plain - read(images / "c.png").astype(int)).mean() < 20
    assert np.abs(colors - PALETTE[read(tmp_path / "1" / "c.png")].astype(int)).mean() < 20
    contours = ["--overlay", "--alpha", 0, "--contours", "--output", tmp_path / "2"]
    call("--input", images / "c.png", *contours)
    assert np.abs(read(tmp_path / "2" / "c_overlay.jpg") - plain.astype(int)).mean() > 3


@pytest.mark.parametrize("flags", [[], ["--flip", "--scales", "0.5", "1"]])
def test_a_mask_does_not_depend_on_what_else_is_asked(
    flags: list[str], call: Predict, images: Path, tmp_path: Path
) -> None:
    assert call("--input", images, *flags) == 0
    more = ["--overlay", "--rgb", "--confidence", "--batch_size", "3", "--num_workers", "3"]
    assert call("--input", images, *flags, *more, "--output", tmp_path / "m2") == 0
    for name in files_in(tmp_path / "masks"):
        assert np.array_equal(read(tmp_path / "masks" / name), read(tmp_path / "m2" / name))


def test_original_ids_for_the_server(model, call: Predict, images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "send.zip"
    assert call("--input", images, "--label_ids", "--rgb", "--overlay", "--zip", archive) == 0
    names = ["c.png", "d.png", "town/a.png", "town/b.png"]
    assert files_in(tmp_path / "masks") == names
    assert len(files_in(tmp_path / "masks_pictures")) == 8
    assert sorted(zipfile.ZipFile(archive).namelist()) == names
    with Image.open(tmp_path / "masks" / "c.png") as mask:
        assert mask.mode == "L"
        train_ids = probabilities(model, images / "c.png").argmax(0)
        assert np.array_equal(Cityscapes.facts.label_table[np.array(mask)], train_ids)
        assert {*np.unique(mask)} <= {*range(7, 34)}


def test_original_ids_need_the_classes_of_cityscapes(
    call: Predict, model, images: Path, tmp_path: Path, capsys
) -> None:
    model.class_names = model.class_names[:5]
    assert call("--input", images, "--label_ids") == 2
    assert "--label_ids needs a network with Cityscapes' classes" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_the_own_evaluation_of_cityscapes_takes_them(
    call: Predict, images: Path, tmp_path: Path, monkeypatch
) -> None:
    name = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    evaluation = pytest.importorskip(name, reason="pip install cityscapesscripts: NOT TESTED")
    truth = tmp_path / "gtFine" / "val" / "bonn"
    truth.mkdir(parents=True)
    for number, image in enumerate(("c.png", "town/a.png")):
        (images / image).rename(images / f"bonn_000000_{number:06d}_leftImg8bit.png")
    assert call("--input", images / "bonn_*.png", "--label_ids", "--overlay", "--rgb") == 0
    for mask in (tmp_path / "masks").iterdir():  # the truth is what was predicted: a perfect score
        name = mask.name.replace("leftImg8bit", "gtFine_labelIds")
        (truth / name).write_bytes(mask.read_bytes())
    args = evaluation.args
    args.quiet, args.evalInstLevelScore, args.JSONOutput = True, False, False
    args.predictionPath, args.predictionWalk = str(tmp_path / "masks"), None
    truths = sorted(map(str, truth.iterdir()))
    predictions = [evaluation.getPrediction(args, path) for path in truths]
    results = evaluation.evaluateImgLists(predictions, truths, args)
    assert results["averageScoreClasses"] == 1.0


def test_a_line_for_each_image(model, call: Predict, images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_text("no image")
    assert call("--input", images, "--summary", tmp_path / "s.csv") == 1
    with open(tmp_path / "s.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["c.png", "d.jpg", "a.png", "b.png"]
    expected = probabilities(model, images / "c.png")
    assert float(rows[0]["mean confidence"]) == pytest.approx(expected.max(0).mean(), abs=2e-4)
    pixels = np.bincount(expected.argmax(0).ravel(), minlength=19)
    for index, name in enumerate(Cityscapes.facts.class_names):
        assert int(rows[0][f"{name} pixels"]) == pixels[index]
        assert float(rows[0][f"{name} share"]) == pytest.approx(pixels[index] / 3072, abs=1e-6)
    assert (
        call("--input", images, "--output", tmp_path / "m2", "--summary", tmp_path / "s.csv") == 2
    )
