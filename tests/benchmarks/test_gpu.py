"""`python -m benchmarks.gpu --quick` on a CPU: what is finished stands in the file, row by row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import network_checks, throughput
from utils import options


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs parts in small; gives the exit code and what the Markdown file holds."""

    def run(*parts: str) -> tuple[int, str]:
        output = tmp_path / "found" / "gpu.md"
        argv = ["--device", "cpu", "--quick", "--output", str(output), "--part", *parts]
        code = gpu.main(argv)
        return code, output.read_text()

    return run


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the rows whose first cell is `first`."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() == first]


def test_checks_are_listed_with_their_results(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    def right(device: torch.device) -> str:
        return f"on {device}"

    def wrong(device: torch.device) -> str:
        raise AssertionError("far | off")

    monkeypatch.setattr(gpu, "CHECKS", {"right": right, "wrong": wrong, "again": right})
    code, text = quick("tests")
    assert code == 1 and text.count("\n## ") == 1 and f"torch {torch.__version__}" in text
    ((_, result, _, measured),) = rows(text, "right")
    assert (result, measured) == ("passed", "on cpu")
    ((_, result, _, measured),) = rows(text, "wrong")
    assert (result, measured) == ("**failed**", "AssertionError: far / off")
    assert rows(text, "again")
    code, text = quick("tests")
    assert text.count("\n## ") == 2 and len(rows(text, "right")) == 2  # it appends


def test_training_steps_evaluation_and_a_failing_part(
    quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> bool:
        raise RuntimeError("no more memory")

    monkeypatch.setitem(gpu.PARTS, "recipe", failing)
    code, text = quick("recipe", "throughput")
    assert code == 1 and "recipe failed: RuntimeError: no more memory" in text
    found = rows(text, "mobilenet")
    assert [row[1] for row in found] == [
        "ours bf16",
        "ours bf16 from-disk PNG",
        "ours bf16 from-disk JPEG",
    ]
    for row in found:
        assert row[2] == "64, 2" and float(row[3]) > 0
        assert 0 < float(row[6].removesuffix("%")) <= 100
        assert ("%" in row[9]) is ("from-disk" in row[1])


@pytest.mark.slow  # starts main.py and predict.py
def test_evaluation_and_recipe(quick) -> None:
    code, text = quick("evaluate", "recipe")
    assert code == 0, text
    whole, predicted = rows(text, "mobilenet")
    assert float(whole[2]) > 0 and float(predicted[3]) > 0
    ((_, steps, _, score, *_),) = rows(text, "@recipes/camvid_gpu.txt")
    assert steps == "2" and 0 <= float(score) <= 1


def test_time_that_is_up_is_said(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CHECKS", dict.fromkeys(["late"], lambda device: "on time"))
    monkeypatch.setattr(gpu.Deadline, "left", lambda self: -1.0)
    _, text = quick("tests")
    assert rows(text, "late") == [["late", "not reached", "", ""]]


@pytest.mark.slow  # starts processes
def test_rows_are_measured_in_processes_that_end_in_time() -> None:
    work = throughput.Work("mobilenet", 64, 2, "cpu")
    result = throughput.there("ours bf16", work, [1e12, 1e10], gpu.Deadline(5))
    assert result["seconds"] > 0 and result["all"] > 0
    with pytest.raises(SystemExit, match="a worker ended with exit code -9"):
        throughput.there("ours bf16", work, [], gpu.Deadline(0.01))


@pytest.mark.slow  # starts a process
def test_a_part_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0)
    output = tmp_path / "gpu.md"
    argv = ["--device", "cpu", "--part", "throughput", "--minutes", "0.02"]
    assert gpu.main([*argv, "--output", str(output)]) == 1
    assert "throughput: stopped after 0.02 minutes" in output.read_text()


def test_every_network_of_the_plan_is_stepped_compiled_and_eager() -> None:
    args = gpu.parse(["--device", "cpu"])
    asked = [(who, work.backbone, work.batch) for who, work in throughput.jobs(args)]
    for backbone in ("hrnetv2_48", "resnet50", "hgnetv2_b4", "vovnetv2_39b", "res2net50_26w_4s"):
        for batch in (8, 16):
            for who in ("ours bf16", "ours bf16 compiled"):
                assert (who, backbone, batch) in asked
    assert all(work.size == 768 for _, work in throughput.jobs(args))


def test_the_recipe_starts_from_random_weights() -> None:
    opts = options.parse_main(["@recipes/camvid_gpu.txt"])
    assert opts.model.pretrained == "none" and opts.optim.precision == "bf16"
    text = Path("recipes/camvid_gpu.txt").read_text()
    assert re.search("not run yet on a GPU", text, re.IGNORECASE)


def test_questions_and_waits_are_found() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(AssertionError, match="2 questions, not 1"):
        with network_checks.no_wait(cpu, allowed=1):
            torch.ones(1).item()
            bool(torch.ones(1))
