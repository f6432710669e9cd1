"""The examples of docs/extend.md do what the page says: a copy of the program trains with them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
PROGRAM = ("main.py", "network", "datasets", "metrics", "utils")


def apply_page(folder: Path) -> str:
    """Write and edit the files as the page says; returns the command at its end.

    The file of a block is the last one that is named before it. A block of Python is a whole file;
    a diff replaces lines, which must be there exactly once.
    """
    command = path = None
    for name, language, block in re.findall(
        r"`([\w/]+\.py)`|^```(\w+)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE
    ):
        if name:
            path = folder / name
        elif language == "python":
            assert not path.exists(), path
            path.write_text(block)
        elif language == "diff":
            lines = block.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            text = path.read_text()
            assert text.count(old) == 1, f"{path} does not have these lines once:\n{old}"
            path.write_text(text.replace(old, new))
        elif language == "bash":
            command = block
    return command.replace("\\\n", " ")


def make_camvid(root: Path) -> None:
    """Two training and two validation images with the classes 0 to 10 and 11, not labeled."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder, shape in ((split, (40, 50, 3)), (f"{split}annot", (40, 50))):
            (root / folder).mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 12, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{number}.png")


def test_the_examples_train(tmp_path: Path) -> None:
    for name in PROGRAM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    words = shlex.split(apply_page(tmp_path))
    assert words[:2] == ["python", "main.py"]
    make_camvid(tmp_path / "DIR")
    small = "--crop_size 33 --batch_size 2 --total_itrs 2 --num_workers 0 --device cpu"
    command = [sys.executable, *words[1:], *small.split(), "--vis_num_samples", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no effect" not in done.stdout
    checkpoints = tmp_path / "checkpoints"
    assert (checkpoints / "latest_deeplabv3plus_plain_camvid_os16.pth").exists()
    record = checkpoints / "deeplabv3plus_plain_camvid_os16" / "options.json"
    options = json.loads(record.read_text())
    assert (options["loss_type"], options["tversky_alpha"], options["mirror"]) == (
        "cross_entropy:1,tversky:0.5",
        0.4,
        0.0,
    )
