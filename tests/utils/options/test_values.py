"""What every option refuses, tested over all options."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest

from utils import options

GROUPS = {
    "main": tuple(get_type_hints(options.Options).values()),
    "predict": (options.PredictOptions, options.PredecessorOptions),
}
NUM_VALUES = {"scale_range": 2, "aspp_rates": 3, "scales": 1}
OPTIONS = {
    (program, field.name): (field, str(get_type_hints(group)[field.name]))
    for program, groups in GROUPS.items()
    for group in groups
    for field in dataclasses.fields(group)
}
VALUED = [key for key, (field, _) in OPTIONS.items() if not isinstance(field.default, bool)]
NUMBERS = [key for key in VALUED if "int" in OPTIONS[key][1] or "float" in OPTIONS[key][1]]
BOUNDED = [key for key in NUMBERS if OPTIONS[key][0].metadata["choices"] is None]


def parse(program: str, name: str, text: str) -> Any:
    """The value of an option for a command line on which `text` is each of its values."""
    words = (
        [f"--{name}", *[text] * NUM_VALUES[name]] if name in NUM_VALUES else [f"--{name}={text}"]
    )
    if program == "main":
        value = options.flat(options.parse_main(words))[name]
    else:
        parsed = options.parse_predict(["--input", "a.png", "--ckpt", "b.pth", *words])
        value = next(getattr(group, name) for group in parsed if hasattr(group, name))
    return value[0] if name in NUM_VALUES else value


def refusal(program: str, name: str, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(program, name, text)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"{program}.py: error: ") and f"--{name}" in error
    return error


@pytest.mark.parametrize(("program", "name"), VALUED)
def test_nothing_is_no_value(program: str, name: str, capsys) -> None:
    refusal(program, name, "", capsys)


@pytest.mark.parametrize("text", ["x", "nan", "inf", "-inf", "1e999", "1e60", "-1e60", "-1"])
@pytest.mark.parametrize(("program", "name"), NUMBERS)
def test_no_number_is_a_word_or_without_limits(program: str, name: str, text: str, capsys) -> None:
    refusal(program, name, text, capsys)


@pytest.mark.parametrize("text", ["1e9", "1e20", "1000000000000000000000"])
@pytest.mark.parametrize(("program", "name"), NUMBERS)
def test_a_large_number_is_refused_or_within_the_bounds(
    program: str, name: str, text: str, capsys
) -> None:
    value = OPTIONS[program, name][0].metadata["value"]
    if value is not None and value.allows(float(text)):
        assert parse(program, name, text) == float(text)
    else:
        refusal(program, name, text, capsys)


@pytest.mark.parametrize(("program", "name"), BOUNDED)
def test_bounds_are_kept_and_named(program: str, name: str, capsys) -> None:
    field, annotation = OPTIONS[program, name]
    value = field.metadata["value"]
    is_float = "float" in annotation
    below = value.low - (1e-9 if is_float else 1)
    above = value.high * (1 + 1e-9) if is_float else value.high + 1
    for bound, beyond in ((value.low, below), (value.high, above)):
        if bound in value.excluded:
            assert f"{bound:,}" in refusal(program, name, repr(bound), capsys)
        else:
            assert parse(program, name, repr(bound)) == bound
        assert f"{bound:,}" in refusal(program, name, repr(beyond), capsys)


@pytest.mark.parametrize(("program", "name"), OPTIONS)
def test_defaults_are_within_the_bounds(program: str, name: str) -> None:
    field, _ = OPTIONS[program, name]
    value, default = field.metadata["value"], field.default
    numbers = default if isinstance(default, tuple) else (default,)
    if (program, name) in BOUNDED and default is not None:
        assert all(value.allows(number) for number in numbers)
    if field.metadata["choices"] and default is not None:
        assert default in field.metadata["choices"]


@pytest.mark.parametrize(("program", "name"), OPTIONS)
def test_a_flag_says_what_comes_after_it(program: str, name: str) -> None:
    field, _ = OPTIONS[program, name]
    stated = [fact for fact in ("value", "choices") if field.metadata[fact]]
    assert len(stated) == ((program, name) in VALUED)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--lr inf", "at most 1e+38"),
        ("--weight_decay inf", "at most 1,000"),
        ("--bn_momentum 5", "at least 0 and at most 1"),
        ("--crop_size 1e9", "--crop_size 1000000000: must be at least 33 and at most 16,384"),
        ("--total_itrs 1e20", "at most 1,000,000,000"),
        ("--grad_accumulation 1e30", "at most 65,536"),
        ("--num_workers 100000", "at most 1,024"),
        ("--vis_port 99999", "at most 65,535"),
        ("--num_classes 300", "at least 2 and at most 255"),
        ("--val_fraction 0", "above 0 and below 1"),
        ("--val_fraction 1", "above 0 and below 1"),
        ("--cat_max_ratio 0", "above 0 and at most 1"),
        ("--ema 1", "--ema 1.0: must be at least 0 and below 1"),
        ("--label_smoothing 1", "at least 0 and below 1"),
        ("--scale_range 2 1", "--scale_range 2.0 1.0: the smaller number comes first"),
    ],
)
def test_what_is_allowed_is_said(arguments: str, expected: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        options.parse_main(arguments.split())
    assert stop.value.code == 2 and expected in capsys.readouterr().err
