from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from utils import options
from utils.options.checks import condition
from utils.options.programs import fields

ROOT = Path(__file__).parents[3]

# The predecessor's README and parser: names, and defaults that must not change.
PREDECESSOR_DEFAULTS = {
    "data_root": "./datasets/data",
    "dataset": "voc",
    "num_classes": None,
    "model": "deeplabv3plus_mobilenet",
    "separable_conv": False,
    "test_only": False,
    "save_val_results": False,
    "total_itrs": 30_000,
    "lr": 0.01,
    "lr_policy": "poly",
    "step_size": 10_000,
    "crop_val": False,
    "batch_size": 16,
    "crop_size": 513,
    "ckpt": None,
    "continue_training": False,
    "loss_type": "cross_entropy",
    "gpu_id": "0",
    "weight_decay": 1e-4,
    "random_seed": 1,
    "print_interval": 10,
    "val_interval": 100,
    "download": False,
    "year": "2012",
    "enable_vis": False,
    "vis_port": 13570,
    "vis_num_samples": 8,
}
PREDECESSOR_COMMANDS = [
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug "
    "--crop_val --lr 0.01 --crop_size 513 --batch_size 16 --output_stride 16",
    "--model deeplabv3plus_mobilenet --enable_vis --vis_port 28333 --gpu_id 0 --year 2012_aug "
    "--crop_val --lr 0.01 --crop_size 513 --batch_size 16 --output_stride 16 --ckpt "
    "checkpoints/best_deeplabv3plus_mobilenet_voc_os16.pth --test_only --save_val_results",
    "--model deeplabv3plus_mobilenet --dataset cityscapes --enable_vis --vis_port 28333 --gpu_id 0 "
    "--lr 0.1 --crop_size 768 --batch_size 16 --output_stride 16 --data_root "
    "./datasets/data/cityscapes",
]


def test_defaults_are_the_predecessors() -> None:
    flat = options.flat(options.parse_main([]))
    assert {name: flat[name] for name in PREDECESSOR_DEFAULTS} == PREDECESSOR_DEFAULTS


@pytest.mark.parametrize("command", PREDECESSOR_COMMANDS)
def test_predecessors_commands_parse(command: str) -> None:
    words = command.split()
    flat = options.flat(options.parse_main(words))
    assert flat["model"] == words[words.index("--model") + 1]


def test_counts_may_be_written_as_30e3() -> None:
    assert options.parse_main(["--total_itrs", "30e3"]).optim.total_itrs == 30_000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--crop_size 32", "--crop_size 32: must be at least 33"),
        ("--modle x", "unknown option --modle; did you mean --model? All options: python main.py"),
        ("--modle=x", "unknown option --modle; did you mean --model?"),
        ("--markdown", "unknown option --markdown. All options: python main.py --help"),
        ("-lr 1", "unknown option -lr; did you mean --lr?"),
        ("--qqqqq", "unknown option --qqqqq. All options: python main.py --help"),
        (f"{ROOT}/recipes/shapes.txt", f"did you mean @{ROOT}/recipes/shapes.txt?"),
        ("--lr x", "--lr: invalid float value: 'x'"),
        ("--total_itrs 1.5", "--total_itrs: invalid integer value: '1.5'"),
        ("--ckpt=", "--ckpt is empty; give a value, or leave it out"),
        ("--dataset kitti", "invalid choice: 'kitti'"),
        ("--output_stride 4", "--output_stride: invalid choice: 4"),
        ("--scale_range 0.5", "expected 2 arguments"),
        ("@no_such_file.txt", "no_such_file.txt"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        options.parse_main(arguments.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_every_flag_has_help_that_names_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        options.parse_main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    flat = options.flat(options.parse_main([]))
    for name, default in flat.items():
        assert f"--{name}" in text
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"(default: {default})" in text
    for name, field in fields().items():
        help_line = text.split(f" --{name} ")[-1]
        assert not condition(field) or f"; only with --{condition(field)}" in help_line[:250]


@pytest.mark.parametrize("program", ["main", "predict"])
def test_help_opens_with_commands_that_work(program: str, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    parse = options.parse_main if program == "main" else options.parse_predict
    with pytest.raises(SystemExit):
        parse(["--help"])
    usage, examples = capsys.readouterr().out.split("\noptions:\n")[0].split("\n", 1)
    assert usage == f"usage: {program}.py [options] [@FILE]"
    commands = [
        shlex.split(line, comments=True) for line in examples.splitlines() if "python" in line
    ]
    assert len(commands) == {"main": 5, "predict": 3}[program]
    for command in commands:
        assert command[:2] == ["python", f"{program}.py"]
        parse(command[2:])
