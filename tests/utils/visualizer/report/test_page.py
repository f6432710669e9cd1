"""The report's file: what it holds and what it must not; test_browser.py opens it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.utils.visualizer.samples.test_samples import PALETTE
from tests.utils.visualizer.test_record import NAMES, record_run
from utils.visualizer import History, ValidatedSample
from utils.visualizer.__main__ import main as command
from utils.visualizer.report import save_comparison, save_report
from utils.visualizer.report.words import command_text, without_paths


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert block is not None
    return json.loads(block[1])


def test_the_page_shows_first_best_and_last_validation(tmp_path: Path) -> None:
    record_run(tmp_path, {10: 0.25, 20: 0.75, 30: 0.5, 40: 0.625})
    save_report(tmp_path)
    data = data_of(tmp_path / "report.html")
    titles = [validation["title"] for validation in data["validations"]]
    assert titles == [
        "10 (first): mean IoU 0.250",
        "20 (best): mean IoU 0.750",
        "40 (last): mean IoU 0.625",
    ]
    assert data["runs"][0]["miou"] == {"x": [10, 20, 30, 40], "y": [0.25, 0.75, 0.5, 0.625]}
    assert data["runs"][0]["best"] == {"x": 20, "y": 0.75}
    # The class without pixels is in neither rows nor columns.
    assert data["validations"][2]["confusion"]["rows"] == [0, 2]
    assert len(data["pictures"]) == 3  # the same image, target and prediction three times


def test_nothing_in_a_name_ends_the_script_or_becomes_markup(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    tracker = History(tmp_path / "history.jsonl", resume_step=None)
    tracker.text("options", {"model": evil, "dataset": evil, "lr": evil, "command": f"a {evil}"})
    tracker.scalars(1, {"Mean IoU (classes in ground truth)": 0.5})
    tracker.table("classes", 1, [{"class": evil, "IoU": 0.5, "pixels": 5}])
    tracker.close()
    save_report(tmp_path)
    save_comparison([tmp_path, tmp_path], tmp_path / "both.html")
    for name in ("report.html", "both.html"):
        assert "<img" not in (tmp_path / name).read_text()
    assert data_of(tmp_path / "report.html")["validations"][0]["classes"][0]["name"] == evil


def test_no_host_and_no_absolute_path_is_told(tmp_path: Path) -> None:
    record_run(tmp_path, {10: 0.25})
    options = {
        "command": f"python main.py /r --data_root={tmp_path} --ckpt '{tmp_path}/a b'",
        "run": {"host": "secret-machine", "device": "cpu", "resume_command": f"x {tmp_path}"},
        "data_root": str(tmp_path),
        "cache": "C:\\Users\\me\\cache",
        "total_itrs": 10,
    }
    (tmp_path / "options.json").write_text(json.dumps(options))
    save_report(tmp_path)
    save_comparison([tmp_path, tmp_path], tmp_path / "both.html")
    for name in ("report.html", "both.html"):
        text = (tmp_path / name).read_text()
        assert "secret" not in text and "Users" not in text
        assert str(tmp_path.parent) not in text
    assert f".../{tmp_path.name}" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/data/cityscapes/", ".../cityscapes"),
        ("/data", ".../data"),
        ("--data_root=/a/b c/d", "--data_root=.../d"),
        ("@/home/me/r.txt", "@.../r.txt"),
        ("~/r.txt", ".../r.txt"),
        ("C:\\Users\\me", ".../me"),
        ("checkpoints/a.pth", "checkpoints/a.pth"),
        ("cross_entropy:1,dice:0.5", "cross_entropy:1,dice:0.5"),
        ("0.5", "0.5"),
    ],
)
def test_absolute_paths_lose_their_folders(word: str, shown: str) -> None:
    assert without_paths(word) == shown


def test_a_command_stays_one_that_can_be_typed() -> None:
    assert (
        command_text("python main.py --ckpt '/a/b c.pth'") == "python main.py --ckpt '.../b c.pth'"
    )
    assert command_text("it's /a/b").endswith(" .../b")  # a quote that does not end


def test_a_page_with_the_worst_pictures_can_be_mailed(tmp_path: Path) -> None:
    rng, tracker = np.random.default_rng(0), History(tmp_path / "history.jsonl", resume_step=None)
    size = (341, 512)
    samples = [
        ValidatedSample(
            f"{number}",
            rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            rng.integers(0, 3, size, dtype=np.uint8).repeat(8, axis=0)[: size[0]],
            np.sort(rng.integers(0, 3, size, dtype=np.uint8)),
            0.5,
            0.5,
        )
        for number in range(8)
    ]
    tracker.text("options", {"run": {"class_names": NAMES, "colors": ["#ff0000"] * 3}})
    for step, score in ((1, 0.1), (2, 0.5), (3, 0.3)):
        tracker.scalars(step, {"Mean IoU (classes in ground truth)": score})
        tracker.table("classes", step, [{"class": name, "IoU": 0.5, "pixels": 1} for name in NAMES])
        tracker.samples(step, samples, NAMES, PALETTE)
    tracker.close()
    save_report(tmp_path)
    assert 300_000 < (tmp_path / "report.html").stat().st_size <= 1_000_000


def test_runs_beside_each_other(tmp_path: Path) -> None:
    for name, scores in (("a", {10: 0.25, 20: 0.5}), ("b", {10: 0.75})):
        record_run(tmp_path / name, scores)
        options = {"lr": 0.1 if name == "a" else 0.01, "seed": 1, "run": {}}
        (tmp_path / name / "options.json").write_text(json.dumps(options))
    save_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html")
    text, data = (tmp_path / "both.html").read_text(), data_of(tmp_path / "both.html")
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert "<td>--lr</td>" in text and "--seed" not in text
    assert data["runs"][1]["miou"] == {"x": [10], "y": [0.75]}


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    save_report(tmp_path)
    data = data_of(tmp_path / "report.html")
    assert data["validations"] == [] and data["runs"][0]["best"] is None


def test_the_command_compares_and_names_what_it_cannot_read(tmp_path: Path, capsys) -> None:
    record_run(tmp_path / "a", {10: 0.25})
    output = tmp_path / "new" / "both.html"
    assert command([str(arg) for arg in ("compare", tmp_path / "a", "--output", output)]) == 0
    assert output.exists()
    assert command(["compare", str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert "no run in" in error and error.count("\n") == 1
