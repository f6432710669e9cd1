"""Refuse long files, long functions and circles of imports; `make check` runs this.

    python .ci/check.py [ROOT]

A circle counts wherever its imports stand: at the top of a module, in a function, or behind
`TYPE_CHECKING`. Tests are exempt. Each finding is one line; the exit code is 1 if there are any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOMS = ("network", "datasets", "metrics", "utils", "benchmarks")  # and the files beside them
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def product_files(root: Path) -> dict[str, Path]:
    """Each module's dotted name and its file; a package is named by its folder."""
    paths = [*root.glob("*.py"), *(path for room in ROOMS for path in (root / room).rglob("*.py"))]
    return {_module_name(path.relative_to(root)): path for path in sorted(paths)}


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def long_functions(path: Path, tree: ast.Module) -> Iterator[str]:
    """A finding for each function that is too long; its decorators don't count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            num_lines = node.end_lineno - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                limit = f"a function may have {MAX_FUNCTION_LINES}"
                yield f"{path}:{node.lineno}: {node.name} has {num_lines} lines; {limit}"


def imported(module: str, path: Path, tree: ast.Module, known: Set[str]) -> set[str]:
    """The product's modules that `module` imports, anywhere in its file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= _runs(alias.name, module)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, package)
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                found |= _runs(submodule if submodule in known else source, module)
    return (found & known) - {module}


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that a `from ... import` names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *filter(None, [node.module])])


def _runs(name: str, importer: str) -> set[str]:
    """`name` and the packages around it, whose `__init__.py` run before it.

    A package that imports one of its modules, which imports a sibling, is no circle: packages that
    hold the importer are left out.
    """
    parts = name.split(".")
    packages = {".".join(parts[:end]) for end in range(1, len(parts))}
    return {name} | {package for package in packages if not importer.startswith(f"{package}.")}


def circles(imports: Mapping[str, Set[str]]) -> Iterator[str]:
    """A finding for each circle, until breaking those leaves none."""
    left = {module: sorted(names) for module, names in imports.items()}
    while circle := _first_circle(left):
        importer, module, *_ = circle
        left[importer].remove(module)
        yield f"circle of imports: {' -> '.join(circle)}"


def _first_circle(imports: Mapping[str, Sequence[str]]) -> list[str]:
    """Modules of which each imports the next, the first one again at the end; or nothing."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def findings(root: Path) -> list[str]:
    """All that is wrong in the product below `root`."""
    found: list[str] = []
    imports: dict[str, set[str]] = {}
    files = product_files(root)
    for module, path in files.items():
        text = path.read_text(encoding="utf-8")
        tree, shown = ast.parse(text, str(path)), path.relative_to(root)
        num_lines = len(text.splitlines())
        if num_lines > MAX_FILE_LINES:
            found.append(f"{shown}: {num_lines} lines; a file may have {MAX_FILE_LINES}")
        found += long_functions(shown, tree)
        imports[module] = imported(module, path, tree, files.keys())
    return found + list(circles(imports))


def main(root: Path) -> int:
    """Print the findings; returns the exit code."""
    found = findings(root)
    print("\n".join(found) or "no file or function is too long, and no imports go in a circle")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
