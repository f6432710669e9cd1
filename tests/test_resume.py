"""A run that goes on: where it begins, what it says, and what it leaves as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main
import network
from tests.helpers import NAME, Args, history

pytestmark = pytest.mark.usefixtures("no_figures")


def test_another_length_continues_at_the_present_step_and_says_so(
    voc_args: Args, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args()) == 0
    assert main.main(voc_args("--continue_training", "--total_itrs", "8")) == 0
    text = capsys.readouterr().out
    assert "training continues at step 4 of 8" in text and "--total_itrs was 4, is now 8" in text
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
    assert "is not a JSON object" in capsys.readouterr().err
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
    old["model_state"] = dict(saved["model_state"])  # without our note on how it was trained
    path = tmp_path / f"best_{NAME}.pth"
    torch.save(old, path)
    shutil.rmtree(tmp_path / "out")
    assert main.main(voc_args("--ckpt", str(path), "--test_only")) == 0
    more = ["--ckpt", str(path), "--continue_training", "--total_itrs", "5"]
    assert main.main(voc_args(*more)) == 0
    new = network.pretrained.read_file(tmp_path / "out" / f"latest_{NAME}.pth")
    assert new["cur_itrs"] == 5
    assert new["build_args"]["backbone_args"] == {"legacy_padding": True}


@pytest.mark.parametrize(
    "line", ['{"step": 1, "loss": "low"}', "[" * 100_000, '{"step": 1, "a": {}}']
)
def test_a_damaged_history_is_one_line_before_anything_happens(
    line: str, voc_args: Args, no_figures: None, tmp_path: Path, capsys
) -> None:
    assert main.main(voc_args("--total_itrs", "1")) == 0
    path = tmp_path / "out" / NAME / "history.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    capsys.readouterr()
    assert main.main(voc_args("--continue_training")) == 2
    error = capsys.readouterr().err
    assert f"{path} line 1 " in error and error.count("\n") == 1
