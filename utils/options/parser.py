"""Command lines from frozen dataclasses: each field made with `option` is a flag of its name."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, get_type_hints


def integer(text: str) -> int:
    """Whole number, also in the form 30e3."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[Any] | None = None,
    minimum: float | None = None,
    nargs: int | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line flag; ``minimum`` bounds numbers from below."""
    metadata = dict(help=help, choices=choices, minimum=minimum, nargs=nargs, metavar=metavar)
    return dataclasses.field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose argument files allow several flags a line."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        return shlex.split(arg_line, comments=True)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--\S+)", message)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[1], flags, n=1)
            message = f"unknown option {unknown[1]}"
            message += f"; did you mean {near[0]}?" if near else ""
            message += f" All options: python {self.prog} --help"
        self.exit(2, f"{self.prog}: error: {message}\n")


def _converter(annotation: Any) -> Callable[[str], Any]:
    text = str(annotation)
    if "float" in text:
        return float
    return integer if "int" in text else str


def _add_group(parser: argparse.ArgumentParser, group: type) -> None:
    section = parser.add_argument_group((group.__doc__ or "").splitlines()[0])
    hints = get_type_hints(group)
    for field in dataclasses.fields(group):
        meta, flag = field.metadata, f"--{field.name}"
        help_text = meta["help"].replace("%", "%%")
        if hints[field.name] is bool:
            section.add_argument(flag, action="store_true", help=help_text)
            continue
        if field.default not in (None, "") and "default" not in help_text:
            shown = field.default
            shown = " ".join(map(str, shown)) if isinstance(shown, tuple) else shown
            help_text += f" (default: {shown})"
        metavar = meta["metavar"] or (
            None if meta["choices"] else field.name.split("_")[-1].upper()
        )
        section.add_argument(
            flag,
            type=_converter(hints[field.name]),
            default=field.default,
            choices=meta["choices"],
            nargs=meta["nargs"],
            metavar=metavar,
            required=field.default == "",
            help=help_text,
        )


def _collect(parser: argparse.ArgumentParser, group: type, values: Mapping[str, Any]) -> Any:
    chosen = {}
    for field in dataclasses.fields(group):
        value, minimum = values[field.name], field.metadata["minimum"]
        if value == "":
            parser.error(f"--{field.name} is empty; give a value, or leave it out")
        if isinstance(value, list):
            value = tuple(value)
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            # `not >=` so that NaN is refused too.
            if minimum is not None and number is not None and not number >= minimum:
                parser.error(f"--{field.name} {number}: must be at least {minimum}")
        chosen[field.name] = value
    return group(**chosen)


def parse(
    groups: Mapping[str, type], *, prog: str, description: str, argv: Sequence[str] | None
) -> dict[str, Any]:
    """One instance of each group, from ``argv`` (or the command line) and its argument files.

    What makes no sense ends the program with one line on stderr and exit code 2.
    """
    parser = Parser(
        prog=prog, description=description, fromfile_prefix_chars="@", allow_abbrev=False
    )
    for group in groups.values():
        _add_group(parser, group)
    try:
        values = vars(parser.parse_args(argv))
    except (ValueError, RecursionError) as error:  # of argument files: quotes, bytes, themselves
        parser.error(f"an argument file can't be read: {error}")
    return {name: _collect(parser, group, values) for name, group in groups.items()}
