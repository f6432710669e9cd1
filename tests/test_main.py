"""The whole command: what it writes, how it tests, and how it is called."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import main
import network
from datasets.base import read_image
from network.backbone import BACKBONES
from tests.helpers import NAME, Args, history, run_command
from tests.network.test_passes import plain


def test_training_leaves_what_the_manual_says(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args("--save_val_results")) == 0
    out = tmp_path / "out"
    kept = {f"latest_{NAME}.pth", f"latest_{NAME}.1.pth", f"best_{NAME}.pth", NAME}
    assert {path.name for path in out.iterdir()} == kept
    expected = {
        "options.json",
        "history.jsonl",
        "curves.png",
        "confusion.png",
        "confusion.csv",
        "history.csv",
        "report.html",
        "train_batch.jpg",
        "samples",
        "results",
    }
    assert {path.name for path in (out / NAME).iterdir()} == expected
    losses = [line for line in history(out) if "loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    assert losses[0]["lr"] == 0.01
    assert losses[1]["lr"] == pytest.approx(0.01 * 0.75**0.9)
    tables = [line for line in history(out) if line.get("table") == "classes"]
    assert [line["step"] for line in tables] == [2, 4] and len(tables[0]["rows"]) == 21
    results = {path.name for path in (out / NAME / "results").iterdir()}
    kinds = ("image", "target", "pred", "overlay")
    assert results == {f"img_{number}_{kind}.png" for number in (6, 7, 8) for kind in kinds}
    target = np.array(Image.open(out / NAME / "results" / "img_8_target.png"))
    assert target.shape == (90, 64) and set(np.unique(target)) == {0, 3, 255}
    samples = {path.name for path in (out / NAME / "samples").iterdir()}
    assert samples == {"000002", "000002.jpg", "000004", "000004.jpg"}
    saved = network.pretrained.read_file(out / f"latest_{NAME}.pth")
    keys = {"model_state", "optimizer_state", "scheduler_state", "cur_itrs", "best_score"}
    assert keys <= saved.keys() and saved["cur_itrs"] == 4
    assert "aeroplane" in capsys.readouterr().out


def test_a_checkpoint_says_enough_to_predict(voc_args: Args, tmp_path: Path) -> None:
    assert main.main(voc_args("--aspp_rates", "2", "4", "6", "--separable_conv")) == 0
    model = network.load_checkpoint(tmp_path / "out" / f"latest_{NAME}.pth")
    assert (model.name, len(model.class_names)) == ("deeplabv3plus_mobilenet", 21)
    assert model.build_args["aspp_rates"] == [2, 4, 6] and model.build_args["separable_conv"]
    assert model.palette[1].tolist() == [128, 0, 0]
    assert not model.training


def test_test_only_scores_a_checkpoint_and_writes_nothing(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args()) == 0
    trained = (
        [line for line in capsys.readouterr().out.splitlines() if line.startswith("mIoU ")][-1]
        .split(" (")[0]
        .split(" |")[0]
    )
    ckpt = str(tmp_path / "out" / f"latest_{NAME}.pth")
    away = str(tmp_path / "away")
    assert main.main(voc_args("--ckpt", ckpt, "--test_only", "--output_dir", away)) == 0
    assert trained in capsys.readouterr().out
    assert not Path(away).exists()


def test_test_only_builds_the_network_as_it_was_trained(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    built = ["--aspp_rates", "1", "2", "3", "--output_stride", "32", "--separable_conv"]
    assert main.main(voc_args(*built)) == 0
    trained = (
        [line for line in capsys.readouterr().out.splitlines() if line.startswith("mIoU ")][-1]
        .split(" (")[0]
        .split(" |")[0]
    )
    ckpt = str(tmp_path / "out" / f"latest_{NAME.replace('os16', 'os32')}.pth")
    assert main.main(voc_args("--ckpt", ckpt, "--test_only")) == 0
    text = capsys.readouterr().out
    assert trained in text and "ASPP rates 1 2 3" in text


@pytest.mark.usefixtures("no_figures")
def test_test_only_averages_flips_and_scales(
    voc_args: Args, tiny_voc: Path, tmp_path: Path
) -> None:
    assert main.main(voc_args("--total_itrs", "1", "--lr", "0.1")) == 0
    ckpt, away = tmp_path / "out" / f"latest_{NAME}.pth", tmp_path / "away"
    passes = ["--flip", "--scales", "0.75", "1", "1.25", "--save_val_results"]
    given = ["--ckpt", str(ckpt), "--test_only", "--output_dir", str(away), *passes]
    assert main.main(voc_args(*given)) == 0
    model = network.load_checkpoint(ckpt)
    for name in ("img_6", "img_8"):
        pixels = read_image(tiny_voc / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg")
        batch = model.normalize(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None])
        with torch.no_grad():
            expected = plain(model, batch, (0.75, 1, 1.25), flip=True)[0].argmax(0).numpy()
        with Image.open(away / NAME / "results" / f"{name}_pred.png") as found:
            equal = np.array(found.convert("RGB")) == model.palette[expected]
        assert equal.all(2).mean() > 0.999 and len(np.unique(expected)) > 1


def test_testing_needs_no_training_images(voc_args: Args, tiny_voc: Path, tmp_path: Path) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    (tiny_voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").unlink()
    ckpt = str(tmp_path / "out" / f"latest_{NAME}.pth")
    away = ["--output_dir", str(tmp_path / "away")]
    assert main.main(voc_args("--ckpt", ckpt, "--test_only", "--save_val_results", *away)) == 0
    results = tmp_path / "away" / NAME / "results"
    assert len(list(results.iterdir())) == 12


def test_crop_val_is_labelled_as_not_comparable(voc_args: Args, capsys) -> None:
    assert main.main(voc_args("--crop_val", "--total_itrs", "1", "--val_batch_size", "2")) == 0
    assert "center crops of 48, not comparable with published numbers" in capsys.readouterr().out


def test_pretrained_weights_are_loaded_and_said(voc_args: Args, tmp_path: Path, capsys) -> None:
    published = torchvision.models.mobilenet_v2().state_dict()
    torch.save(published, tmp_path / "mobilenet_v2.pth")
    weights = ["--pretrained", str(tmp_path / "mobilenet_v2.pth")]
    assert main.main(voc_args(*weights, "--total_itrs", "1", "--lr", "0")) == 0
    assert "306 of 314 tensors used" in capsys.readouterr().out
    saved = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    loaded = saved["model_state"]["backbone.low_level_features.0.0.weight"]
    assert torch.equal(loaded, published["features.0.0.weight"])
    assert saved["bn_momentum"] == 0.01


def test_normalisation_follows_the_checkpoint(voc_args: Args, tmp_path: Path) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    saved = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    torch.save(saved | {"mean": [0.5] * 3, "std": [0.25] * 3}, tmp_path / "other.pth")
    again = ["--ckpt", str(tmp_path / "other.pth"), "--output_dir", str(tmp_path / "two")]
    assert main.main(voc_args(*again, "--total_itrs", "1")) == 0
    new = network.pretrained.read_file(tmp_path / "two" / f"latest_{NAME}.pth")
    assert (new["mean"], new["std"]) == ([0.5] * 3, [0.25] * 3)


def test_starting_from_weights_begins_at_step_0(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args()) == 0
    first = tmp_path / "out" / f"latest_{NAME}.pth"
    again = ["--ckpt", str(first), "--output_dir", str(tmp_path / "two"), "--lr", "0"]
    assert main.main(voc_args(*again, "--total_itrs", "1")) == 0
    one, two = (
        network.pretrained.read_file(path / f"latest_{NAME}.pth")
        for path in (tmp_path / "out", tmp_path / "two")
    )
    assert two["cur_itrs"] == 1 and two["bn_momentum"] == 0.01 and one["bn_momentum"] == 0.1
    weight = "classifier.classifier.3.weight"
    assert torch.equal(one["model_state"][weight], two["model_state"][weight])


def test_hrnets_output_stride_is_said_once_and_named_os4(voc_args: Args, tmp_path: Path) -> None:
    arguments = ["--model", "deeplabv3_hrnetv2_18_small", "--output_stride", "16"]
    with pytest.warns(UserWarning, match="always has output stride 4") as said:
        assert main.main(voc_args(*arguments, "--total_itrs", "1")) == 0
    assert len(said) == 1
    assert (tmp_path / "out" / "latest_deeplabv3_hrnetv2_18_small_voc_os4.pth").exists()


def test_list_models_prints_all(capsys) -> None:
    assert main.main(["--list_models"]) == 0
    table = capsys.readouterr().out
    assert all(f"\n{name} " in table for name in BACKBONES)


@pytest.mark.slow  # a whole Cityscapes image
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_full_cityscapes_image_is_validated_in_2_gib(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("val", 1)):
        stem = f"town_00000{number}_000019"
        image = tmp_path / "leftImg8bit" / split / "town" / f"{stem}_leftImg8bit.png"
        label = tmp_path / "gtFine" / split / "town" / f"{stem}_gtFine_labelIds.png"
        image.parent.mkdir(parents=True)
        label.parent.mkdir(parents=True)
        Image.fromarray(np.full((1024, 2048, 3), 99, np.uint8)).save(image)
        Image.fromarray(np.full((1024, 2048), 7, np.uint8)).save(label)
    model = network.create_model("deeplabv3plus_mobilenet", num_classes=19)
    ckpt = tmp_path / "weights.pth"
    torch.save({"model_state": model.state_dict()}, ckpt)
    arguments = ["--dataset", "cityscapes", "--data_root", str(tmp_path), "--ckpt", str(ckpt)]
    # Not ru_maxrss, which a new process takes over from the one that started it.
    report = (
        "import atexit, pathlib, re; atexit.register(lambda: print('peak', re.search("
        "r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]))"
    )
    code, output, error = run_command([*arguments, "--test_only", "--device", "cpu"], code=report)
    assert code == 0, error
    peak_kib = int(output.rsplit("peak ", 1)[1])
    assert peak_kib <= 2 * 1024 * 1024, f"{peak_kib / 1024**2:.2f} GiB"


@pytest.mark.parametrize(
    "command",
    [
        "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug "
        "--crop_val --lr 0.01 --crop_size 513 --batch_size 16 --output_stride 16",
        "--model deeplabv3plus_mobilenet --dataset cityscapes --enable_vis --vis_port 28333 "
        "--gpu_id 0  --lr 0.1  --crop_size 768 --batch_size 16 --output_stride 16 "
        "--data_root ./datasets/data/cityscapes",
    ],
)
def test_predecessors_readme_commands_start(command: str, monkeypatch, capsys) -> None:
    """They get as far as looking for the data; the parts behind are tested with small options."""
    monkeypatch.chdir("/")
    assert main.main(command.split()) == 2
    assert "--data_root" in capsys.readouterr().err
