"""Ctrl-C at any moment of a program's start is one line and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import main
import predict
from tests.helpers import ROOT, Args

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def start(program: str, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(library: str, process: subprocess.Popen[str]) -> None:
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and library not in maps.read_text():
        time.sleep(0.005)


@linux
@pytest.mark.parametrize(
    ("program", "library", "times"),
    [
        ("main.py", "libtorch_cpu", 6),
        pytest.param("predict.py", "libtorch_cpu", 1, marks=pytest.mark.slow),
        *(
            pytest.param(program, library, times, marks=pytest.mark.slow)
            for program in ("main.py", "predict.py")
            for library in ("libtorch_python", "_multiarray_umath", "_imaging", "cv2")
            for times in (1, 6)
        ),
    ],
)
def test_while_it_imports(program: str, library: str, times: int) -> None:
    arguments = ["--input", "docs", "--ckpt", "x.pth"] if program == "predict.py" else []
    process = start(program, arguments)
    wait_for(library, process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    output, error = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, "")
    assert error == f"{program}: interrupted\n"


@linux
@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.6, 1, 1.5, 2, 3, 4, 5, 6])
def test_while_it_starts(delay: float, tmp_path: Path) -> None:
    process = start("main.py", ["@recipes/shapes.txt", "--output_dir", str(tmp_path / "out")])
    wait_for("libtorch_global_deps", process)
    time.sleep(delay)
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and error.count("\n") == 1
    assert error.startswith("main.py: interrupted")


def interrupt_often(*_: object, **__: object) -> None:
    for _ in range(6):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("utils.options.parse_main", marks=pytest.mark.slow),
        pytest.param("main.prepare", marks=pytest.mark.slow),
        "main.report.announce",
    ],
)
def test_main_while_it_prepares(
    where: str, voc_args: Args, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(where, interrupt_often)
    assert main.main(voc_args()) == 130
    assert capsys.readouterr().err == "main.py: interrupted; nothing was saved yet\n"
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_predict_while_it_prepares(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("utils.options.parse_predict", interrupt_often)
    assert predict.main([]) == 130
    assert capsys.readouterr().err.startswith("predict.py: interrupted")


def test_a_second_one_in_training_is_obeyed_once(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("main.compute_gradients", interrupt_often)
    assert main.main(voc_args()) == 130
    assert capsys.readouterr().err == "main.py: interrupted; nothing was saved yet\n"


def test_one_that_is_ignored_stays_ignored(
    voc_args: Args, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """As in `command &` in a script."""
    compute = main.compute_gradients

    def interrupted(*values: object) -> object:
        interrupt_often()
        return compute(*values)

    monkeypatch.setattr("main.compute_gradients", interrupted)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main.main(voc_args("--total_itrs", "1")) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
