"""Training on one's own images through the whole command, and on data that is not all good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
import predict
from tests.helpers import Args, history, read, step_losses

pytestmark = pytest.mark.usefixtures("no_figures")

NAME = "deeplabv3plus_mobilenet_folder_os16"
CLASSES = ("ground", "tree", "lake")


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """A folder with 4 training and 2 validation images of 80x70; every class is in each label."""
    root = tmp_path / "own"
    for number, name in enumerate("abcdef"):
        split = "train" if number < 4 else "val"
        rng = np.random.default_rng(number)
        label = np.zeros((70, 80), np.uint8)
        label[20:60, 10:40] = 1
        label[5:15, 50 : 56 + number] = 2
        label[:3] = 255
        pixels = rng.integers(0, 60, (70, 80, 3)) + 60 * label[..., None].clip(max=3)
        for kind, array in (("images", pixels.astype(np.uint8)), ("labels", label)):
            path = root / kind / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


@pytest.fixture
def own_args(own_images: Path, voc_args: Args) -> Args:
    """Arguments of a run of a few steps on these."""

    def build(*more: str) -> list[str]:
        place = ["--dataset", "folder", "--data_root", str(own_images), "--val_interval", "4"]
        return voc_args(*place, *more)

    return build


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_own_images_are_learnt_and_predicted(
    own_args: Args, own_images: Path, tmp_path: Path
) -> None:
    assert main.main(own_args()) == 0
    out = tmp_path / "out"
    saved = read(out, "best", NAME)
    assert saved["class_names"] == list(CLASSES)
    assert saved["model_state"]["classifier.classifier.3.bias"].shape == (3,)
    (rows,) = [line["rows"] for line in history(out, NAME) if line.get("table") == "classes"]
    lake = 10 * (10 + 11)  # pixels of the two validation labels, see above
    assert {row["class"]: row["pixels"] for row in rows} == {
        "ground": 2 * 67 * 80 - 2 * 40 * 30 - lake,
        "tree": 2 * 40 * 30,
        "lake": lake,
    }
    masks, images = tmp_path / "masks", str(own_images / "images" / "val")
    ckpt = str(out / f"best_{NAME}.pth")
    assert predict.main(["--input", images, "--ckpt", ckpt, "--output", str(masks)]) == 0
    assert sorted(path.name for path in masks.rglob("*.png")) == ["e.png", "f.png"]
    mask = np.asarray(Image.open(masks / "e.png"))
    assert mask.shape == (70, 80) and mask.max() < 3


def test_check_data_says_what_is_there(
    own_args: Args, own_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(own_args("--check_data")) == 0
    output = capsys.readouterr().out
    ignored, rest = 3 * 80, 67 * 80
    lake = sum(10 * (6 + number) for number in range(4))
    share = f"{100 * lake / (4 * rest):.2f}"
    assert next(line for line in output.splitlines() if line.startswith("lake")).split() == [
        "lake", share, "4", f"{100 * 210 / (2 * rest):.2f}", "2",
    ]  # fmt: skip
    assert f"{100 * ignored / (70 * 80):.2f} % of the pixels are ignored" in output
    assert "the data is fit to train on" in output
    with Image.open(tmp_path / "out" / "data_folder.png") as sheet:
        assert sheet.size[0] > 80 and sheet.size[1] > 70
    cut_short(own_images / "images/train/b.png")
    assert main.main(own_args("--check_data")) == 1
    output = capsys.readouterr().out
    assert str(own_images / "images/train/b.png") in output and "1 problem: fix" in output
    assert main.main(own_args("--check_data", "--skip_bad_files")) == 0


def test_a_cache_changes_nothing(
    own_args: Args, own_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / name for name in ("plain", "first", "second")]
    cache = ["--cache", str(tmp_path / "cache")]
    for place in places:
        more = cache if place != places[0] else []
        if place == places[2]:  # all is in the cache: no image is decoded again
            monkeypatch.setattr("datasets.base.read_image", None)
        assert main.main(own_args(*more, "--output_dir", str(place))) == 0
    losses = [step_losses(place, NAME) for place in places]
    assert len(losses[0]) == 4 and losses[0] == losses[1] == losses[2]
    assert history(places[0], NAME) == history(places[2], NAME)
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_bad_files_are_skipped_when_asked(
    workers: str, own_args: Args, own_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [own_images / "images/train/b.png", own_images / "images/val/f.png"]
    for path in bad:
        cut_short(path)
    arguments = own_args("--num_workers", workers)
    assert main.main([*arguments, "--skip_bad_files"]) == 0
    output = capsys.readouterr().out
    assert "epoch 2: 1 of 4 train files skipped: b" in output  # 4 steps of 2 of 4 images
    assert "1 of 2 val files skipped: f" in output
    assert main.main([*arguments, "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py: error: ") and error.count("\n") == 1
    assert any(str(path) in error for path in bad)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bad_file_that_the_check_finds_ends_the_run_before_its_first_step(
    split: str, own_args: Args, own_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = own_images / f"images/{split}/{'b' if split == 'train' else 'f'}.png"
    cut_short(bad)
    assert main.main(own_args()) == 2
    output, error = capsys.readouterr()
    assert "step 1/" not in output and not list(tmp_path.glob("out/*"))
    assert error.startswith(f"main.py: error: {split}: cannot read {bad}: ")
    assert error.count("\n") == 1 and "--skip_bad_files" in error


def test_automatic_class_weights_are_kept_beside_the_data(
    own_args: Args, own_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (["--output_dir", str(tmp_path / name)] for name in ("one", "two"))
    auto = own_args("--class_weights", "auto", "--total_itrs", "2")
    assert main.main([*auto, *one]) == 0
    assert "counted in 4 labels" in capsys.readouterr().out
    assert (own_images / ".class_counts.json").is_file()
    # Median frequency: each class is in all images, so its frequency is its share of all pixels.
    lake, tree = sum(10 * (6 + number) for number in range(4)), 4 * 40 * 30
    shares = [4 * 67 * 80 - tree - lake, tree, lake]
    path = tmp_path / "weights.txt"
    lines = (f"{tree / n} {c}\n" for n, c in zip(shares, CLASSES, strict=True))
    path.write_text("".join(lines))
    same = own_args("--class_weights", str(path), "--total_itrs", "2")
    assert main.main([*same, *two]) == 0
    weighted = step_losses(tmp_path / "one", NAME)
    assert weighted == pytest.approx(step_losses(tmp_path / "two", NAME), rel=1e-6)
    capsys.readouterr()
    assert main.main([*auto, *one, "--overwrite"]) == 0
    assert "counts of " in capsys.readouterr().out
    assert step_losses(tmp_path / "one", NAME) == weighted


def test_training_on_train_and_val(
    voc_args: Args, own_args: Args, tiny_voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = tiny_voc / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    both = [(splits / f"{name}.txt").read_text() for name in ("train", "val")]
    (splits / "trainval.txt").write_text("".join(both))
    assert main.main(voc_args("--train_split", "trainval", "--total_itrs", "1")) == 0
    assert "voc: 9 images to train on, 3 to validate" in capsys.readouterr().out
    assert main.main(own_args("--train_split", "trainval")) == 2
    error = capsys.readouterr().err
    assert "dataset folder has no split 'trainval'" in error and error.count("\n") == 1
