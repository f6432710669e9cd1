"""What the README tells people to do is done here, so that it stays true."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import network
from utils import options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_worked_example_of_a_backbone_trains(tmp_path: Path) -> None:
    for name in ("main.py", "network", "datasets", "metrics", "utils"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    section = README.split("## Add a backbone")[1].split("\n## ")[0]
    family, registration = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    backbones = tmp_path / "network" / "backbone"
    (backbones / "plain.py").write_text(family)
    registry = (backbones / "__init__.py").read_text()
    registry = re.sub(r"from \. import .*\n", registration.splitlines()[0] + "\n", registry)
    families = registration[registration.index("FAMILIES") :]
    registry = re.sub(r"FAMILIES = \(.*?\n\)\n", families, registry, flags=re.DOTALL)
    (backbones / "__init__.py").write_text(registry)
    short = "--model deeplabv3_plain_wide --dataset shapes --output_stride 8 --crop_size 33"
    few = (
        "--batch_size 2 --total_itrs 1 --num_workers 0 --vis_num_samples 1 --device cpu --crop_val"
    )
    command = [sys.executable, "main.py", *short.split(), *few.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checkpoints" / "latest_deeplabv3_plain_wide_shapes_os8.pth").exists()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.txt")), ids=lambda p: p.stem)
def test_recipes_parse(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if recipe.name.endswith("_weights.txt"):
        pytest.skip("class weights, read by the recipe that names them")
    parsed = options.parse_main([f"@{recipe}"])
    assert parsed.model.model in network.list_models()
    assert parsed.optim.total_itrs != 30_000  # the default: every recipe says its length


def test_flags_the_readme_names_exist() -> None:
    known = set(options.flat(options.parse_main([])))
    known |= {"signals", "shutdown", "memory", "models", "size"}  # torchrun's and the benchmarks'
    known |= {
        "input",
        "output",
        "overlay",
        "nproc_per_node",
        "nnodes",
        "prepare_aug",
        "no",
        "help",
        "pretrained_backbone",
    }
    named = set(re.findall(r"--([a-z]\w*)", README))
    assert named - known - {"build"} == set()


def test_the_table_of_models_is_fresh() -> None:
    table = README.split("<!-- models: written by `make tables` -->\n")[1]
    assert table.split("\n<!-- /models -->")[0] == network.models_table(markdown=True)
