"""The check of sizes and imports finds what it is made to find, and nothing else."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.helpers import ROOT

SCRIPT = runpy.run_path(str(ROOT / ".ci" / "check.py"))


def check(root: Path, **files: str) -> list[str]:
    """The findings in a program of `files`, where "__" in a name stands for a slash."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = SCRIPT["findings"](root)
    assert SCRIPT["main"](root) == bool(found)  # the exit code
    return found


def package(root: Path, folder: str, text: str = "") -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "__init__.py").write_text(text)


def function(num_lines: int) -> str:
    return "@decorated\ndef long():\n" + "    pass\n" * (num_lines - 1)


@pytest.mark.parametrize(
    "back",
    [
        "import utils.one",
        "from utils import one",
        "from .one import name",
        "from . import one",
        "from ..utils.one import name",
        "def later():\n    from utils.one import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from utils.one import name",
    ],
)
def test_a_circle_is_found(back: str, tmp_path: Path) -> None:
    package(tmp_path, "utils")
    lines = check(tmp_path, utils__one="from utils import two", utils__two=back)
    assert len(lines) == 1
    assert lines[0] in (
        "circle of imports: utils.one -> utils.two -> utils.one",
        "circle of imports: utils.two -> utils.one -> utils.two",
    )


def test_a_circle_through_another_package_is_found(tmp_path: Path) -> None:
    package(tmp_path, "datasets")
    package(tmp_path, "utils", "from utils.one import name")
    lines = check(
        tmp_path,
        datasets__voc="import utils.two",  # which runs utils/__init__.py
        utils__one="from datasets.voc import name",
        utils__two="",
    )
    assert len(lines) == 1 and lines[0].count("->") == 3


def test_every_circle_is_found(tmp_path: Path) -> None:
    files = {f"utils__{x}{n}": f"from . import {y}{n}" for n in (1, 2) for x, y in ("ab", "ba")}
    lines = check(tmp_path, **files)
    assert len(lines) == 2


def test_a_package_may_import_modules_that_import_each_other(tmp_path: Path) -> None:
    package(tmp_path, "utils", "from . import one, two")
    lines = check(
        tmp_path,
        main="import json, utils",
        utils__one="import utils.two",
        utils__two="from os import path",
    )
    assert not lines


def test_long_files_and_functions_are_found(tmp_path: Path) -> None:
    lines = check(
        tmp_path,
        main="\n" * 300,
        predict="\n" * 301,
        network__a=function(60),
        network__b=function(61),
    )
    assert lines == [
        "network/b.py:2: long has 61 lines; a function may have 60",
        "predict.py: 301 lines; a file may have 300",
    ]


def test_tests_may_be_long(tmp_path: Path) -> None:
    assert check(tmp_path, tests__test_main="\n" * 301) == []
