"""The options of the training engine, each through the whole command."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import main
import network
import predict
from tests.helpers import NAME, Args, history, read, same, step_losses
from utils.training.step import TrainingState

pytestmark = pytest.mark.usefixtures("no_figures")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def differing(one: Mapping[str, Tensor], two: Mapping[str, Tensor], part: str = "") -> list[str]:
    """The entries of two state dicts, those that begin with `part`, that are not equal."""
    keys = [key for key in one if key.startswith(part)]
    assert keys and one.keys() == two.keys()
    return [key for key in keys if not torch.equal(one[key], two[key])]


def statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BatchNorm's buffers."""
    return {k: v for k, v in state.items() if k.endswith(("running_mean", "running_var"))}


def scores(folder: Path, name: str = NAME) -> list[dict[str, Any]]:
    """What the validations said, without the tables."""
    return [line for line in history(folder, name) if "Mean IoU" in line]


# --- early stop ----------------------------------------------------------------------------------


def test_early_stop_counts_across_a_resume(
    voc_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    values = {1: 0.2, 2: 0.5, 3: 0.4, 4: float("nan"), 5: 0.6, 6: 0.1, 7: 0.1}
    monkeypatch.setattr(main, "validate", lambda run, step, trackers: values[step])
    arguments = voc_args("--val_interval", "1", "--total_itrs", "7", "--early_stop", "2")
    assert main.main(arguments) == 0
    output = capsys.readouterr().out
    assert (
        "stopped after step 4 of 7: no better score since step 2; to continue with a larger"
        in output
    )
    assert "--early_stop 2 --continue_training" in output
    saved = read(tmp_path / "out")
    assert (saved["cur_itrs"], saved["best_itrs"], saved["num_worse"]) == (4, 2, 2)
    assert TrainingState.of(saved) == TrainingState(4, 0.5, 2, 2)
    assert main.main([*arguments, "--continue_training"]) == 0  # nothing left of its patience
    assert read(tmp_path / "out")["cur_itrs"] == 4
    monkeypatch.setitem(values, 5, 0.3)  # worse once more: that is the third in a row
    assert main.main([*arguments, "--early_stop", "3", "--continue_training"]) == 0
    assert read(tmp_path / "out")["cur_itrs"] == 5
    monkeypatch.setitem(values, 6, 0.7)
    assert main.main([*arguments, "--early_stop", "4", "--continue_training"]) == 0
    saved = read(tmp_path / "out")
    assert (saved["cur_itrs"], saved["best_itrs"], saved["num_worse"]) == (7, 6, 1)


# --- averaged weights, and all that a step may have ----------------------------------------------


def test_averaged_weights_are_what_counts(
    voc_args: Args, tiny_voc: Path, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--ema", "0.9", "--lr", "0.1")) == 0
    output, out = capsys.readouterr().out, tmp_path / "out"
    saved = read(out)
    weight = "classifier.classifier.3.weight"
    assert not torch.equal(saved["ema_state"][weight], saved["model_state"][weight])
    assert read(out, "best")["ema_updates"] in (2, 4)
    trained = re.findall("^mIoU [^ ]+", output, re.MULTILINE)[-1]
    loss = scores(out)[-1]["validation loss"]
    ckpt = str(out / f"latest_{NAME}.pth")
    assert main.main(voc_args("--ckpt", ckpt, "--test_only")) == 0
    tested = capsys.readouterr().out
    assert trained in tested and f"loss {loss:.4f}" in tested and "averaged weights" in tested
    # Prediction: that of the averages, computed here.
    image = tiny_voc / "VOCdevkit/VOC2012/JPEGImages/img_7.jpg"
    masks = tmp_path / "masks"
    command = ["--input", str(image), "--ckpt", ckpt, "--output", str(masks), "--device", "cpu"]
    assert predict.main(command) == 0
    model = network.create_model("deeplabv3plus_mobilenet", pretrained="none")
    found = np.asarray(Image.open(next(masks.glob("*.png"))))
    agreement = {}
    for kind in ("ema_state", "model_state"):
        model.load_state_dict(saved[kind])
        logits = plain_logits(model, image)
        agreement[kind] = float((logits.argmax(1)[0].numpy() == found).mean())
    assert agreement["ema_state"] > 0.9999
    loss_of = {}
    for kind in ("ema_state", "model_state"):
        model.load_state_dict(saved[kind])
        loss_of[kind] = plain_loss(model, tiny_voc)
    assert loss == pytest.approx(loss_of["ema_state"], rel=1e-4)
    assert loss_of["ema_state"] != pytest.approx(loss_of["model_state"], rel=1e-2)


@torch.no_grad()
def plain_logits(model: torch.nn.Module, image: Path) -> Tensor:
    """Logits (1,C,H,W) of an image file."""
    pixels = torch.from_numpy(np.array(Image.open(image).convert("RGB"))).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return model.eval()(((pixels / 255 - mean) / std)[None])


def plain_loss(model: torch.nn.Module, data: Path) -> float:
    """Cross entropy of all labeled pixels of the tiny VOC's validation images."""
    base, total, count = data / "VOCdevkit/VOC2012", 0.0, 0
    for number in (6, 7, 8):
        label = np.array(Image.open(base / f"SegmentationClass/img_{number}.png"))
        target = torch.from_numpy(label).long()[None]
        logits = plain_logits(model, base / f"JPEGImages/img_{number}.jpg")
        total += F.cross_entropy(logits, target, ignore_index=255, reduction="sum").item()
        count += int((target != 255).sum())
    return total / count


def test_the_validation_loss_is_cross_entropy_of_full_size_logits(
    voc_args: Args, tiny_voc: Path, tmp_path: Path
) -> None:
    assert main.main(voc_args("--total_itrs", "2")) == 0
    model = network.load_checkpoint(tmp_path / "out" / f"latest_{NAME}.pth")
    loss = scores(tmp_path / "out")[0]["validation loss"]
    assert loss == pytest.approx(plain_loss(model, tiny_voc), rel=1e-4)


def test_everything_at_once_resumes_to_the_last_bit(voc_args: Args, tmp_path: Path) -> None:
    everything = (
        "--model deeplabv3plus_resnet18 --ema 0.9 --no_decay_norm_bias --clip_grad_norm 1 "
        "--lr_policy cosine --warmup_itrs 2 --aux_loss 0.4 --precision bf16 --optimizer adamw "
        "--loss_type cross_entropy:1,dice:0.5 --label_smoothing 0.1 --freeze_backbone_itrs 1 "
        "--grad_accumulation 2 --total_itrs 4 --val_interval 4 --save_interval 2"
    ).split()
    name = NAME.replace("mobilenet", "resnet18")
    arguments = voc_args(*everything)
    assert main.main(arguments) == 0
    whole, out = tmp_path / "out", tmp_path / "resumed"
    out.mkdir()
    shutil.copytree(whole / name, out / name)
    shutil.copy(whole / f"latest_{name}.1.pth", out / f"latest_{name}.pth")
    assert read(out, name=name)["cur_itrs"] == 2
    assert main.main([*arguments, "--output_dir", str(out), "--continue_training"]) == 0
    one, two = (read(folder, name=name) for folder in (whole, out))
    for key in ("command", "options"):
        one.pop(key), two.pop(key)
    assert not [key for key in one if not same(one[key], two[key])]
    assert history(whole, name) == history(out, name)
    assert any(key.startswith("aux_classifier") for key in one["ema_state"])


# --- freezing ------------------------------------------------------------------------------------


def test_a_frozen_backbone_stays_until_its_step(voc_args: Args, tmp_path: Path) -> None:
    frozen = "--freeze_backbone_itrs 2 --save_interval 1 --keep_checkpoints 4".split()
    assert main.main(voc_args(*frozen)) == 0
    out = tmp_path / "out"
    one, two, three = (read(out, f"latest.{n}")["model_state"] for n in (3, 2, 1))
    assert not differing(one, two, "backbone.")
    assert len(differing(one, two, "classifier.")) > 10
    changed = differing(two, three, "backbone.")
    assert any(key.endswith("running_mean") for key in changed)
    assert any(key.endswith("0.weight") for key in changed)


def test_frozen_batchnorm_keeps_its_statistics(voc_args: Args, tmp_path: Path) -> None:
    assert main.main(voc_args("--freeze_bn", "--total_itrs", "3")) == 0
    state = statistics(read(tmp_path / "out")["model_state"])
    assert len(state) > 100
    for key, value in state.items():  # as they are in a new network
        assert (value == (0 if key.endswith("running_mean") else 1)).all(), key


# --- tiles, arithmetic, losses -------------------------------------------------------------------


def test_validation_in_tiles(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args("--lr", "0.1", "--freeze_bn")) == 0
    capsys.readouterr()
    ckpt = ["--ckpt", str(tmp_path / "out" / f"latest_{NAME}.pth"), "--test_only"]
    found, losses = [], []
    for tile in ([], ["--val_tile", "64"], ["--val_tile", "500"]):
        assert main.main(voc_args(*ckpt, *tile)) == 0
        output = capsys.readouterr().out
        line = next(line for line in output.splitlines() if line.startswith("Overall Acc: "))
        found.append(float(line.split()[2]))
        losses.append(float(re.search(r"loss ([\d.]+)", output)[1]))
    whole, tiled, one_tile = found
    assert one_tile == whole and tiled == pytest.approx(whole, abs=0.2)
    assert losses[2] == losses[0] and losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]  # a window's image pooling sees less
    with pytest.raises(SystemExit) as end:
        main.main(voc_args("--val_tile", "48"))
    assert end.value.code == 2 and "--val_tile 48: must be at least 64" in capsys.readouterr().err


def test_precisions_on_a_cpu(
    voc_args: Args, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    losses = {}
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        out = tmp_path / precision
        steps = ["--total_itrs", "2", "--precision", precision, "--output_dir", str(out)]
        assert main.main(voc_args(*steps)) == 0
        losses[precision] = step_losses(out)
        assert math.isfinite(scores(out)[0]["validation loss"])
    assert losses["tf32"] == losses["fp32"]
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]  # fp16 skips step 1
    assert read(tmp_path / "fp16")["scaler_state"]["scale"] > 0
    for precision in ("bf16", "fp16"):
        assert losses[precision] != losses["fp32"]
        assert losses[precision][0] == pytest.approx(losses["fp32"][0], rel=0.05)


@pytest.mark.slow  # compiles a network with C++
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_alike(
    voc_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)  # compiled, draws anew
    losses = []
    for extra in ([], ["--compile"]):
        out = tmp_path / f"out{len(losses)}"
        steps = ["--total_itrs", "3", "--freeze_backbone_itrs", "1", "--output_dir", str(out)]
        assert main.main(voc_args(*steps, *extra)) == 0
        losses.append(step_losses(out))
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert not [key for key in read(out)["model_state"] if "_orig_mod" in key]


def test_a_mix_of_losses_is_the_weighted_sum(voc_args: Args, tmp_path: Path) -> None:
    first = {}
    for mix in ("cross_entropy", "dice", "lovasz", "cross_entropy:0.5,dice:2,lovasz"):
        out = tmp_path / f"out{len(first)}"
        steps = ["--total_itrs", "1", "--loss_type", mix, "--output_dir", str(out)]
        assert main.main(voc_args(*steps)) == 0
        (first[mix],) = step_losses(out)
    ce, dice, lovasz, mixed = first.values()
    assert mixed == pytest.approx(0.5 * ce + 2 * dice + lovasz, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--loss_type cross_entrpy", "did you mean 'cross_entropy'?"),
        ("--loss_type dice,dice", "names dice twice"),
        ("--loss_type dice:-1", "give a number above 0"),
        ("--freeze_backbone_itrs 9", "--freeze_backbone_itrs 9 is more than --total_itrs 4"),
        ("--aux_loss 0.4 --model deeplabv3plus_nothing", "unknown model"),
    ],
)
def test_mistakes_are_one_line(arguments: str, expected: str, voc_args: Args, capsys) -> None:
    assert main.main(voc_args(*arguments.split())) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_options_without_effect_are_said_once(voc_args: Args, capsys) -> None:
    unused = "--loss_type dice --label_smoothing 0.1 --focal_gamma 3 --total_itrs 1".split()
    assert main.main(voc_args(*unused)) == 0
    output = capsys.readouterr().out
    assert (
        output.count("--label_smoothing has no effect without --loss_type cross_entropy or ohem\n")
        == 1
    )
    assert output.count("--focal_gamma has no effect without --loss_type focal_loss\n") == 1
