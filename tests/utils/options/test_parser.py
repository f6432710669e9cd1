from __future__ import annotations

from pathlib import Path

import pytest

from utils import options

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
    "vis_env": "main",
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


def test_argument_file_holds_flags_and_comments_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.txt"
    recipe.write_text(
        "# a comment\n--lr 0.5 --batch_size 4  # another\n\n--data_root 'a b'\n"
        "--scale_range 1 1.5\n"
    )
    parsed = options.parse_main([f"@{recipe}", "--lr", "0.25"])
    assert (parsed.optim.lr, parsed.data.batch_size) == (0.25, 4)
    assert (parsed.data.data_root, parsed.data.scale_range) == ("a b", (1.0, 1.5))


@pytest.mark.parametrize("content", [b"--lr '0.1", b"\xff\xfe\x00", b"@recipe.txt"])
def test_a_broken_argument_file_is_one_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.txt").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        options.parse_main(["@recipe.txt"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_counts_may_be_written_as_30e3() -> None:
    assert options.parse_main(["--total_itrs", "30e3"]).optim.total_itrs == 30_000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--crop_size 32", "--crop_size 32: must be at least 33"),
        ("--modle x", "unknown option --modle; did you mean --model?"),
        ("--lr nan", "--lr nan: must be at least 0"),
        ("--lr x", "--lr: invalid float value: 'x'"),
        ("--total_itrs 1.5", "--total_itrs: invalid integer value: '1.5'"),
        ("--total_itrs inf", "--total_itrs"),
        ("--ckpt=", "--ckpt is empty"),
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
