"""Options that make no sense together, or do nothing."""

from __future__ import annotations

import pytest

from utils.options import check_options, parse_main, without_effect


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            "--dataset shapes --year 2007 --focal_gamma 1 --vis_port 99 --step_size 5",
            [
                "--year has no effect without --dataset voc",
                "--step_size has no effect without --lr_policy step",
                "--vis_port has no effect without --enable_vis",
                "--focal_gamma has no effect with --loss_type cross_entropy",
            ],
        ),
        ("--lr_policy step --step_size 5 --loss_type focal_loss --focal_gamma 1 --year 2007", []),
        (
            "--ckpt a.pth --pretrained b.pth --test_only --overwrite",
            [
                "--pretrained has no effect with --ckpt",
                "--overwrite has no effect with --test_only",
            ],
        ),
        ("--loss_type cross_entropy:1,dice:0.5 --label_smoothing 0.1", []),
        (
            "--loss_type dice --label_smoothing 0.1",
            ["--label_smoothing has no effect with --loss_type dice"],
        ),
        (
            "--loss_type dice --class_weights auto",
            ["--class_weights has no effect with --loss_type dice"],
        ),
        (
            "--dataset folder --split_file a.txt --val_fraction 0.3",
            ["--val_fraction has no effect with --split_file"],
        ),
        ("--dataset shapes --cache c", ["--cache has no effect with --dataset shapes"]),
    ],
)
def test_options_without_effect_are_named(given: str, lines: list[str]) -> None:
    assert without_effect(parse_main(given.split())) == lines


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--val_fraction 0", "--val_fraction 0.0: a share, above 0 and below 1"),
        ("--val_fraction 1", "--val_fraction 1.0: a share, above 0 and below 1"),
        ("--cat_max_ratio 0", "--cat_max_ratio 0.0: a share, above 0 and at most 1"),
        ("--cat_max_ratio 1.5", "--cat_max_ratio 1.5"),
        ("--ema 1", "--ema 1.0: must be below 1"),
        ("--label_smoothing 1", "--label_smoothing 1.0: must be below 1"),
        ("--freeze_backbone_itrs 9 --total_itrs 8", "is more than --total_itrs 8"),
        ("--batch_size 3", "can't be shared equally by 2 processes"),
        ("--batch_size 2", "use --batch_size 4 or more, or --freeze_bn"),
    ],
)
def test_what_makes_no_sense_is_one_line(given: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_options(parse_main(given.split()), world_size=2)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_one_image_a_process_is_enough_where_batchnorm_is_frozen() -> None:
    check_options(parse_main("--batch_size 2 --freeze_bn".split()), world_size=2)
