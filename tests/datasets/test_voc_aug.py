"""Making SegmentationClassAug from a tiny VOC and a tiny SBD."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import SBDataset

from datasets import VOCSegmentation
from datasets.voc_aug import Counts, main

scipy_io = pytest.importorskip("scipy.io", reason="SBD's labels need scipy")

SIZE = (20, 30)  # H, W, of the images of make_voc
COUNTS = Counts(train=4, val=2)


def write_mat(path: Path, classes: np.ndarray) -> None:
    """As SBD's: a struct GTcls with Boundaries (not read), Segmentation and CategoriesPresent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.unique(classes[classes > 0])
    truth = {"Boundaries": np.zeros(3), "Segmentation": classes, "CategoriesPresent": present}
    scipy_io.savemat(path, {"GTcls": truth}, do_compression=True)


def sbd_label(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 21, SIZE, dtype=np.uint8)


@pytest.fixture
def root(make_voc: Callable[..., Path]) -> Path:
    """VOC with a, b, c and d, e; below sbd/, SBD with a of train, d of val, and f of its own."""
    root = make_voc()
    folder = root / "sbd" / "benchmark_RELEASE" / "dataset"
    for number, name in enumerate("adf"):
        write_mat(folder / "cls" / f"{name}.mat", sbd_label(number))
    (folder / "train.txt").write_text("a\nf\n")
    (folder / "val.txt").write_text("d\n")
    return root


def run(root: Path, *more: str, expected: Counts = COUNTS) -> int:
    return main(["--data_root", str(root), *more], expected=expected)


def folder_of(root: Path, name: str = "SegmentationClassAug") -> Path:
    return root / "VOCdevkit" / "VOC2012" / name


def test_vocs_labels_win_and_sbd_fills_in(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    aug = folder_of(root)
    assert capsys.readouterr().out == (f"4 labels to train on and 2 to validate on are in {root}\n")
    assert sorted(path.name for path in aug.iterdir()) == [f"{name}.png" for name in "abcdef"]
    for name in "abcde":
        own = folder_of(root, "SegmentationClass") / f"{name}.png"
        assert (aug / f"{name}.png").read_bytes() == own.read_bytes()
    made = Image.open(aug / "f.png")
    assert made.mode == "P" and made.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    sbd = root / "sbd" / "benchmark_RELEASE" / "dataset"
    write_mat(sbd / "img" / "f.jpg", np.zeros((1, 1)))
    theirs = SBDataset(str(sbd), "train", mode="segmentation")._get_target(str(sbd / "cls/f.mat"))
    assert np.array_equal(np.asarray(made), np.asarray(theirs))
    assert np.array_equal(np.asarray(made), sbd_label(2))
    assert len(VOCSegmentation(root, "2012_aug", "train")) == 4


def test_goes_on_where_it_stopped(root: Path) -> None:
    assert run(root) == 0
    aug = folder_of(root)
    before = (aug / "a.png").stat().st_mtime_ns
    (aug / "f.png").write_bytes(b"")
    (aug / "b.png").unlink()
    (aug / ".c.png-1.tmp").touch()  # of a run that was killed
    assert run(root) == 0
    assert (aug / "a.png").stat().st_mtime_ns == before
    assert np.array_equal(np.asarray(Image.open(aug / "f.png")), sbd_label(2))


def problem(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, which is the only one but for the progress bar."""
    return capsys.readouterr().err.splitlines()[-1]


def test_wrong_counts_say_why(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, expected=Counts()) == 1
    assert problem(capsys) == "error: expected 10,582 to train on and 1,449 to validate on"


def test_stray_label(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(root).mkdir()
    Image.new("P", SIZE[::-1]).save(folder_of(root) / "zebra.png")
    assert run(root) == 1
    assert problem(capsys) == (
        "error: 1 labels are in no list, the first: zebra.png; "
        "expected 4 to train on and 2 to validate on"
    )


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (None, "cannot read GTcls.Segmentation of "),
        (np.zeros((30, 20), dtype=np.uint8), "sizes differ: the image is 30x20, its label "),
        (np.full(SIZE, 21, dtype=np.uint8), " holds 21..21; allowed: 0..20"),
        (np.zeros((2, *SIZE), dtype=np.uint8), "cannot read GTcls.Segmentation of "),
    ],
)
def test_bad_label_is_named_and_left_out(
    root: Path, capsys: pytest.CaptureFixture[str], classes: np.ndarray | None, said: str
) -> None:
    mat = root / "sbd/benchmark_RELEASE/dataset/cls/f.mat"
    if classes is None:
        mat.write_bytes(mat.read_bytes()[:150])
    else:
        write_mat(mat, classes)
    assert run(root) == 1
    line = problem(capsys)
    assert line.startswith("error: 1 labels failed, the first: ") and str(mat) in line
    assert said in line and line.endswith("; expected 4 to train on and 2 to validate on")
    assert sorted(path.name for path in folder_of(root).iterdir()) == [f"{n}.png" for n in "abcde"]


def test_missing_image_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder_of(root, "JPEGImages") / "f.jpg").unlink()
    assert run(root) == 1
    assert f"cannot read {folder_of(root, 'JPEGImages') / 'f.jpg'}: No such" in problem(capsys)


def test_what_can_not_start(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path) == 2
    assert problem(capsys).startswith("error: no split file ")
    assert run(root, "--sbd", str(tmp_path)) == 2
    assert problem(capsys).startswith(f"error: no SBD in {tmp_path}: it must hold cls/")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert run(root) == 2
    assert problem(capsys).endswith("pip install scipy")
    assert not folder_of(root).exists()


def test_sbd_is_unpacked_as_torchvision_lays_it_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(root / "sbd" / "benchmark_RELEASE", arcname="benchmark_RELEASE")
    sbd = tmp_path / "other"
    sbd.mkdir()
    (sbd / "benchmark.tgz").write_bytes(stream.getvalue())  # fetched by hand: no server is asked
    monkeypatch.setattr(SBDataset, "md5", hashlib.md5(stream.getvalue()).hexdigest())
    assert run(root, "--download", "--sbd", str(sbd)) == 0
    assert sorted(p.name for p in sbd.iterdir()) == ["benchmark.tgz", "cls", "train.txt", "val.txt"]


def start(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command(root: Path) -> None:
    """The module itself: one line for the wrong counts, and nothing about its own import."""
    done = start("datasets.voc_aug", "--data_root", str(root))
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"4 labels to train on and 2 to validate on are in {root}\n"
    assert done.stderr.startswith("error: expected 10,582 to train on")
    assert done.stderr.count("\n") == 1


def test_the_old_command_names_the_new_one(root: Path) -> None:
    done = start("datasets.voc", "--prepare_aug", "--data_root", str(root))
    assert done.returncode == 2 and done.stdout == ""
    assert "run python -m datasets.voc_aug " in done.stderr and done.stderr.count("\n") == 1
