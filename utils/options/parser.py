"""The parsers of `main.py` and `predict.py`, made from the groups of options."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from utils.options.argument_files import expand
from utils.options.checks import condition
from utils.options.declare import REQUIRED
from utils.options.programs import Options, PredecessorOptions, PredictOptions

MAIN_HELP = """\
Train, validate and test DeepLabV3 and DeepLabV3+.

  python main.py --dataset cityscapes --data_root FOLDER --model deeplabv3plus_hrnetv2_48
  python main.py --dataset folder --data_root FOLDER                 # your own images
  python main.py --dataset folder --data_root FOLDER --check_data    # what do the files hold?
  python main.py @recipes/shapes.txt            # options from a file; needs no data
  python main.py @recipes/shapes.txt --continue_training             # resume the run

An argument FILE holds options, one or more a line. Later options win."""

PREDICT_HELP = """\
Segment images with a trained network.

  python predict.py --input IMAGE --ckpt checkpoints/best_NAME.pth
  python predict.py --input FOLDER --ckpt FILE --output masks --overlay
  python predict.py --input FOLDER --ckpt FILE --val_tile 1024       # needs less memory"""

PREDICT_GROUPS = {"predict": PredictOptions, "predecessor": PredecessorOptions}


def main_parser() -> argparse.ArgumentParser:
    """The parser of `main.py`."""
    return _parser(get_type_hints(Options), "main.py", MAIN_HELP)


def predict_parser() -> argparse.ArgumentParser:
    """The parser of `predict.py`."""
    return _parser(PREDICT_GROUPS, "predict.py", PREDICT_HELP)


def from_namespace(parsed: argparse.Namespace) -> Options:
    """What `main_parser` has parsed, in groups; raises ValueError for values out of bounds."""
    groups = get_type_hints(Options)
    return Options(**{name: _collect(group, vars(parsed)) for name, group in groups.items()})


def parse_main(argv: Sequence[str] | None = None) -> Options:
    """Options of `main.py`; a mistake ends the program with one line and exit code 2."""
    parser = main_parser()
    try:
        return from_namespace(parser.parse_args(argv))
    except ValueError as error:
        parser.error(str(error))


def parse_predict(
    argv: Sequence[str] | None = None,
) -> tuple[PredictOptions, PredecessorOptions]:
    """Options of `predict.py`; a mistake ends the program with one line and exit code 2."""
    parser = predict_parser()
    try:
        values = vars(parser.parse_args(argv))
        return _collect(PredictOptions, values), _collect(PredecessorOptions, values)
    except ValueError as error:
        parser.error(str(error))


def _parser(groups: Mapping[str, type], prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [options] [@FILE]",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for group in groups.values():
        _add_group(parser, group)
    return parser


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and where `@FILE` stands for the options in FILE."""

    def parse_known_args(  # type: ignore[override]  # the rest of argparse calls it like this
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        try:
            words = expand(sys.argv[1:] if args is None else args)
        except ValueError as error:
            self.error(str(error))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: ([^\s=]+)", message)
        if unknown:
            # Without the dashes, in which all flags are alike.
            names = [flag[2:] for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[1].lstrip("-"), names, n=1)
            meant = [f"--{name}" for name in near]
            if os.path.isfile(unknown[1]):
                meant = [f"@{unknown[1]}"]
            hint = f"; did you mean {meant[0]}?" if meant else "."
            message = f"unknown option {unknown[1]}{hint} All options: python {self.prog} --help"
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def integer(text: str) -> int:  # argparse shows the name in its message
    """Whole number, also in the form 30e3."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _kind(annotation: Any) -> tuple[type, int | str | None]:
    """Type and number of an option's values: (int, 2) of `tuple[int, int] | None`."""
    inside = get_args(annotation)
    if not inside:
        return annotation, None
    if get_origin(annotation) is tuple:
        return inside[0], "+" if inside[1] is ... else len(inside)
    return _kind(inside[0])


def _add_group(parser: argparse.ArgumentParser, group: type) -> None:
    section = parser.add_argument_group((group.__doc__ or "").splitlines()[0])
    annotations = get_type_hints(group)
    for field in dataclasses.fields(group):
        facts, flag = field.metadata, f"--{field.name}"
        help_text = _help(field).replace("%", "%%")
        if annotations[field.name] is bool:
            section.add_argument(flag, action="store_true", help=help_text)
            continue
        kind, number = _kind(annotations[field.name])
        section.add_argument(
            flag,
            type=integer if kind is int else kind,
            default=None if field.default is REQUIRED else field.default,
            choices=facts["choices"],
            nargs=number,
            metavar=facts["value"] and facts["value"].metavar,
            required=field.default is REQUIRED,
            help=help_text,
        )


def _help(field: dataclasses.Field[Any]) -> str:
    """The help line, with what this option has no effect without, and with the default."""
    text, default = field.metadata["help"], field.default
    if needed := condition(field):
        text += f"; only with --{needed}"
    if isinstance(default, bool) or default in (None, REQUIRED) or "(default" in text:
        return text
    values = default if isinstance(default, tuple) else (default,)
    return f"{text} (default: {' '.join(map(str, values))})"


def _collect(group: type, values: Mapping[str, Any]) -> Any:
    """An instance of `group`; raises ValueError for values out of bounds."""
    chosen, annotations = {}, get_type_hints(group)
    for field in dataclasses.fields(group):
        value = values.get(field.name, field.default)
        value = tuple(value) if isinstance(value, list) else value
        numbers = value if isinstance(value, tuple) else (value,)
        if "" in numbers:
            raise ValueError(f"--{field.name} is empty; give a value, or leave it out")
        allowed = field.metadata["value"]
        for number in numbers:
            if isinstance(number, int | float) and allowed and not allowed.allows(number):
                raise ValueError(f"--{field.name} {number}: must be {allowed}")
        if _kind(annotations[field.name])[1] == 2 and numbers[0] > numbers[1]:
            raise ValueError(
                f"--{field.name} {numbers[0]} {numbers[1]}: the smaller number comes first"
            )
        chosen[field.name] = value
    return group(**chosen)
