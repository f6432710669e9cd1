"""The whole command: what it writes, how it goes on after a kill, and how it answers mistakes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import main
import network
from tests.helpers import NAME, ROOT, Args, history, run_command, same


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
        "samples",
        "results",
    }
    assert {path.name for path in (out / NAME).iterdir()} == expected
    losses = [line for line in history(out) if "loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4]
    assert losses[0]["lr"] == 0.01
    assert losses[1]["lr"] == pytest.approx(0.01 * 0.75**0.9)
    tables = [line for line in history(out) if "table" in line]
    assert [line["step"] for line in tables] == [2, 4] and len(tables[0]["rows"]) == 21
    results = {path.name for path in (out / NAME / "results").iterdir()}
    kinds = ("image", "target", "pred", "overlay")
    assert results == {f"img_{number}_{kind}.png" for number in (6, 7, 8) for kind in kinds}
    target = np.array(Image.open(out / NAME / "results" / "img_8_target.png"))
    assert target.shape == (90, 64) and set(np.unique(target)) == {0, 3, 255}
    assert len(list((out / NAME / "samples").iterdir())) == 3
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
    trained = [line for line in capsys.readouterr().out.splitlines() if "Mean IoU:" in line][-1]
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
    trained = [line for line in capsys.readouterr().out.splitlines() if "Mean Dice:" in line][-1]
    ckpt = str(tmp_path / "out" / f"latest_{NAME.replace('os16', 'os32')}.pth")
    assert main.main(voc_args("--ckpt", ckpt, "--test_only")) == 0
    text = capsys.readouterr().out
    assert trained in text and "ASPP rates 1 2 3" in text


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
    assert "centre crops of 48, not comparable with published numbers" in capsys.readouterr().out


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


# --- going on ------------------------------------------------------------------------------------


# Each kills the process, as a power cut would, at one kind of moment.
KILLS = {
    "in mid-epoch": """
import os, signal
import utils.progress as p
class Killing(p.Progress):
    def count(self, num_images):
        super().count(num_images)
        if self.step == 3: os.kill(os.getpid(), signal.SIGKILL)
p.Progress = Killing""",
    "during a save": """
import os, signal, torch
save = torch.save
def half(state, file):
    if state['cur_itrs'] == 4:
        file.write(b'half of it'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)
torch.save = half""",
    "between best and latest": """
import os, signal
from utils import checkpoint
latest = checkpoint.save_latest
def second(state, files, **options):
    if state['cur_itrs'] == 4: os.kill(os.getpid(), signal.SIGKILL)
    latest(state, files, **options)
checkpoint.save_latest = second""",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory):
    """Runs an undisturbed training once per data folder; gives its output folder."""
    done: dict[str, Path] = {}

    def get(arguments: list[str]) -> Path:
        if "run" not in done:
            folder = tmp_path_factory.mktemp("undisturbed")
            code, _, error = run_command([*arguments, "--output_dir", str(folder)])
            assert code == 0, error
            done["run"] = folder
        return done["run"]

    return get


@pytest.mark.parametrize(
    ("moment", "workers"), [("in mid-epoch", "3"), *((moment, "0") for moment in KILLS)]
)
def test_a_killed_run_ends_as_the_undisturbed_one(
    moment: str, workers: str, voc_args: Args, undisturbed, tmp_path: Path
) -> None:
    arguments = voc_args("--total_itrs", "6", "--num_workers", workers, "--save_interval", "1")
    whole = undisturbed(arguments)
    code, _, _ = run_command(arguments, code=KILLS[moment])
    assert code == -signal.SIGKILL
    out = tmp_path / "out"
    assert network.pretrained.read_file(out / f"latest_{NAME}.pth")["cur_itrs"] in (2, 3, 4)
    code, output, error = run_command([*arguments, "--continue_training"])
    assert code == 0, error
    assert "continuing at step" in output
    for which in ("latest", "best"):
        expected, found = (
            network.pretrained.read_file(folder / f"{which}_{NAME}.pth") for folder in (whole, out)
        )
        for key in ("command", "options"):
            expected.pop(key), found.pop(key)
        assert same(expected, found)
    assert history(out) == history(whole)
    assert not list(out.glob("*.tmp"))


def test_another_length_continues_at_the_present_step_and_says_so(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args()) == 0
    assert main.main(voc_args("--continue_training", "--total_itrs", "8")) == 0
    text = capsys.readouterr().out
    assert "continuing at step 4 of 8" in text and "--total_itrs was 4, is now 8" in text
    out = tmp_path / "out"
    lrs = {line["step"]: line["lr"] for line in history(out) if "lr" in line}
    assert lrs[5] == pytest.approx(0.01 * (1 - 4 / 8) ** 0.9)  # a step's lr is that of its start
    assert list(lrs) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_resumed_run_can_be_past_its_end(voc_args: Args, capsys) -> None:
    assert main.main(voc_args()) == 0
    assert main.main(voc_args("--continue_training", "--total_itrs", "2")) == 2
    assert "is at step 4, past --total_itrs 2" in capsys.readouterr().err


def test_changed_options_are_said(voc_args: Args, capsys) -> None:
    assert main.main(voc_args()) == 0
    capsys.readouterr()
    changed = ["--aspp_rates", "1", "2", "3", "--bn_momentum", "0.5", "--num_workers", "1"]
    assert main.main(voc_args("--continue_training", "--total_itrs", "5", *changed)) == 0
    text = capsys.readouterr().out
    assert "--aspp_rates was not given, is now 1 2 3" in text
    assert "--bn_momentum was not given, is now 0.5" in text
    assert "num_workers" not in text


def test_a_damaged_history_is_an_error_before_anything_changes(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args()) == 0
    path = tmp_path / "out" / NAME / "history.jsonl"
    damaged = path.read_text().replace('{"step": 2', "garbage", 1)
    path.write_text(damaged)
    assert main.main(voc_args("--continue_training", "--total_itrs", "6")) == 2
    assert "is no history line" in capsys.readouterr().err
    assert path.read_text() == damaged


def test_best_is_the_best_not_the_last(voc_args: Args, tmp_path: Path, monkeypatch) -> None:
    scores = {1: 0.2, 2: 0.5, 3: 0.4, 4: float("nan")}
    monkeypatch.setattr(main, "validate", lambda run, step, trackers: scores[step])
    assert main.main(voc_args("--val_interval", "1")) == 0
    best = network.pretrained.read_file(tmp_path / "out" / f"best_{NAME}.pth")
    assert (best["cur_itrs"], best["best_score"]) == (2, 0.5)
    latest = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    assert (latest["cur_itrs"], latest["best_score"]) == (4, 0.5)


def test_a_finished_run_trains_no_step_more(voc_args: Args, tmp_path: Path) -> None:
    assert main.main(voc_args()) == 0
    latest = tmp_path / "out" / f"latest_{NAME}.pth"
    before = latest.read_bytes()
    assert main.main(voc_args("--continue_training")) == 0
    assert latest.read_bytes() == before


def test_the_predecessors_checkpoint_is_tested_and_continued(
    voc_args: Args, tmp_path: Path
) -> None:
    assert main.main(voc_args()) == 0
    saved = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    keys = ("model_state", "optimizer_state", "scheduler_state", "cur_itrs")
    old = {key: saved[key] for key in keys} | {"best_score": np.float64(0.3)}
    path = tmp_path / f"best_{NAME}.pth"
    torch.save(old, path)
    shutil.rmtree(tmp_path / "out")
    assert main.main(voc_args("--ckpt", str(path), "--test_only")) == 0
    more = ["--ckpt", str(path), "--continue_training", "--total_itrs", "5"]
    assert main.main(voc_args(*more)) == 0
    new = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    assert new["cur_itrs"] == 5
    assert new["build_args"]["backbone_args"] == {"legacy_padding": True}


# --- mistakes ------------------------------------------------------------------------------------


def damage_label(data: Path) -> str:
    path = data / "VOCdevkit/VOC2012/SegmentationClass/img_0.png"
    label = np.array(Image.open(path))
    label[0, :2] = (33, 77)
    Image.fromarray(label).save(path)
    return "img_0.png: values 33, 77 are not classes; allowed: 0..20 and 255 (ignored)"


def resize_label(data: Path) -> str:
    path = data / "VOCdevkit/VOC2012/SegmentationClass/img_1.png"
    Image.open(path).resize((9, 9), Image.Resampling.NEAREST).save(path)
    return "sizes differ"


def drop_label(data: Path) -> str:
    (data / "VOCdevkit/VOC2012/SegmentationClass/img_2.png").unlink()
    return "img_2.png"


def empty_split(data: Path) -> str:
    (data / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("")
    return "train.txt is empty"


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("damage", [damage_label, resize_label, drop_label, empty_split])
def test_bad_data_is_one_line(
    damage: Callable[[Path], str], workers: str, voc_args: Args, tiny_voc: Path, capsys
) -> None:
    expected = damage(tiny_voc)
    assert main.main(voc_args("--num_workers", workers, "--total_itrs", "9")) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and error.startswith("main.py: error: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ckpt", "nowhere.pth"], "no file nowhere.pth"),
        (["--model", "deeplabv3_resnet51"], "did you mean 'deeplabv3_resnet50'?"),
        (["--data_root", "nowhere"], "--data_root nowhere does not exist; pass --download"),
        (["--dataset", "cityscapes"], "leftImg8bit"),
        (["--batch_size", "1"], "use --batch_size 2 or more"),
        (["--gpu_id", "0,1"], "torchrun --nproc_per_node 2 main.py"),
        (["--gpu_id", "first"], "must be a number"),
        (["--device", "gpu"], "must be auto, cpu, cuda, cuda:N or mps"),
        (["--num_classes", "20"], "voc has 21 classes"),
        (["--test_only"], "--test_only needs --ckpt"),
        (["--continue_training"], f"latest_{NAME}.pth"),
        (["--warmup_itrs", "99"], "warm-up of 99 steps"),
        (["--class_weights", "nowhere.txt"], "nowhere.txt"),
        (["--pretrained", "nowhere.pth"], "nowhere.pth"),
        (["--finetune"], "--finetune needs --ckpt FILE"),
        (["--finetune", "--ckpt", "x.pth", "--test_only"], "--test_only needs it"),
        (["--finetune", "--ckpt", "x.pth", "--continue_training"], "--continue_training needs it; leave out one"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    arguments: list[str], expected: str, voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args(*arguments)) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_no_data_at_all_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main([]) == 2
    error = capsys.readouterr().err
    for way in ("--download", "--dataset shapes", "leftImg8bit/ and gtFine/"):
        assert way in error
    assert error.count("\n") == 1
    assert main.main(["--dataset", "cityscapes"]) == 2
    assert "leftImg8bit/" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_or_class_count_is_refused(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    ckpt = str(tmp_path / "out" / f"latest_{NAME}.pth")
    elsewhere = ["--output_dir", str(tmp_path / "new")]
    other = ["--ckpt", ckpt, "--model", "deeplabv3plus_resnet18", *elsewhere]
    assert main.main(voc_args(*other)) == 2
    assert "holds deeplabv3plus_mobilenet, not --model" in capsys.readouterr().err
    assert main.main(voc_args("--ckpt", ckpt, "--num_classes", "30", *elsewhere)) == 2
    error = capsys.readouterr().err
    assert "has 21 classes" in error and "--finetune loads all but the final" in error
    assert not (tmp_path / "new").exists()
    more = ["--num_classes", "30", "--finetune", "--total_itrs", "1", "--lr", "0"]
    assert main.main(voc_args("--ckpt", ckpt, *more, *elsewhere)) == 0
    assert f"all weights but the final classifier's from {ckpt}" in capsys.readouterr().out
    old, new = (
        network.pretrained.read_file(tmp_path / folder / f"latest_{NAME}.pth")["model_state"]
        for folder in ("out", "new")
    )
    assert len(new["classifier.classifier.3.bias"]) == 30
    key = "classifier.classifier.0.weight"
    assert torch.equal(old[key], new[key])


def test_an_earlier_run_is_replaced_only_when_asked(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args("--total_itrs", "2")) == 0
    latest = tmp_path / "out" / f"latest_{NAME}.pth"
    before = latest.read_bytes()
    assert main.main(voc_args("--total_itrs", "1")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert latest.read_bytes() == before
    assert main.main(voc_args("--total_itrs", "1", "--overwrite")) == 0
    assert network.pretrained.read_file(latest)["cur_itrs"] == 1


def test_overwriting_never_takes_the_checkpoint_started_from(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    best = tmp_path / "out" / f"best_{NAME}.pth"
    assert main.main(voc_args("--ckpt", str(best), "--overwrite")) == 2
    assert "would delete" in capsys.readouterr().err and best.exists()


def test_continuing_from_elsewhere_does_not_replace_a_run(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    elsewhere = ["--output_dir", str(tmp_path / "two")]
    assert main.main(voc_args("--total_itrs", "1", *elsewhere)) == 0
    ckpt = ["--ckpt", str(tmp_path / "out" / f"latest_{NAME}.pth"), "--continue_training"]
    assert main.main(voc_args(*ckpt, *elsewhere)) == 2
    assert "exists already" in capsys.readouterr().err


def test_nothing_saved_yet_is_said(voc_args: Args, tmp_path: Path, capsys) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    for path in (tmp_path / "out").glob("*.pth"):
        path.unlink()
    assert main.main(voc_args()) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and "--continue_training" not in error
    assert main.main(voc_args("--continue_training")) == 2
    assert "nothing was saved there yet" in capsys.readouterr().err


def test_a_full_disk_is_one_line(voc_args: Args, tmp_path: Path, monkeypatch, capsys) -> None:
    def full(state: object, file: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos")

    monkeypatch.setattr(torch, "save", full)
    assert main.main(voc_args()) == 2
    assert "is the disk full?" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.pth*"))


def test_hrnets_output_stride_is_said_once_and_named_os4(voc_args: Args, tmp_path: Path) -> None:
    arguments = ["--model", "deeplabv3_hrnetv2_18_small", "--output_stride", "16"]
    with pytest.warns(UserWarning, match="always has output stride 4") as said:
        assert main.main(voc_args(*arguments, "--total_itrs", "1")) == 0
    assert len(said) == 1
    assert (tmp_path / "out" / "latest_deeplabv3_hrnetv2_18_small_voc_os4.pth").exists()


def test_list_models_prints_all(capsys) -> None:
    assert main.main(["--list_models"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in network.list_models())
    assert main.main(["--list_models", "--markdown"]) == 0
    assert capsys.readouterr().out == network.models_table(markdown=True) + "\n"


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_train_together(voc_args: Args, tmp_path: Path) -> None:
    arguments = voc_args("--batch_size", "4")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*torchrun, "--master_port", "29517", "main.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation at step 4: 3 images") == 1
    saved = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    assert saved["cur_itrs"] == 4
    assert not any(key.startswith("module.") for key in saved["model_state"])


# --- the command as typed -------------------------------------------------------------------------


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
