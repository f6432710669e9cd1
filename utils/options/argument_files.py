"""Argument files: `@FILE` on the command line stands for the options in FILE."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from utils.runtime.console import list_names

RECIPES = Path(__file__).parents[2] / "recipes"
MAX_BYTES = 32 * 1024  # the longest recipe has 2 KB; argparse needs minutes for 2 MB


def expand(words: Sequence[str], *, inside: tuple[str, ...] = ()) -> list[str]:
    """The words, with those of FILE in the place of `@FILE`; files can name more files.

    Raises ValueError with one line for a file that can't be used.
    """
    expanded = []
    for word in words:
        if not word.startswith("@"):
            expanded.append(word)
            continue
        name = word[1:]
        if name in inside:
            raise ValueError(f"argument file {name} includes itself")
        for line in _read(name).splitlines():
            expanded += expand(_split(line, name), inside=(*inside, name))
    return expanded


def _read(name: str) -> str:
    try:
        with open(name, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"argument file {name} does not exist{_hint(name)}") from None
    except OSError as error:
        raise ValueError(f"can't read argument file {name}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"argument file {name} is larger than {MAX_BYTES:,} bytes; it can hold only options "
            "and comments"
        )
    try:
        return content.decode("utf-8-sig")  # some editors begin with a byte-order mark
    except UnicodeDecodeError:
        raise ValueError(f"argument file {name} is not UTF-8 text") from None


def _split(line: str, name: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:  # an open quote
        raise ValueError(f"argument file {name}: {error}: {line[:80]}") from None


def _hint(name: str) -> str:
    """Which recipes there are, after the one that `name` may mean."""
    paths = [path for path in sorted(RECIPES.glob("*.txt")) if "_weights" not in path.name]
    recipes = {path.name: os.path.relpath(path) for path in paths}
    near = difflib.get_close_matches(Path(name).name, recipes, n=1)
    meant = f"; did you mean @{recipes[near[0]]}? Recipes: " if near else "; recipes: "
    return meant + list_names(list(recipes.values()), shown=20)
