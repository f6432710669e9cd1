"""Options that make no sense together, or do nothing."""

from __future__ import annotations

import pytest

from datasets import DATASETS
from utils.loss import LOSSES
from utils.options import changes_on_resume, check_options, flat, parse_main, without_effect
from utils.options.checks import condition
from utils.options.programs import fields


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            "--dataset shapes --year 2007 --focal_gamma 1 --vis_port 99 --step_size 5",
            [
                "--year has no effect without --dataset voc",
                "--step_size has no effect without --lr_policy step",
                "--focal_gamma has no effect without --loss_type focal_loss",
                "--vis_port has no effect without --enable_vis",
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
            ["--label_smoothing has no effect without --loss_type cross_entropy or ohem"],
        ),
        (
            "--loss_type dice --class_weights auto",
            [
                "--class_weights has no effect without "
                "--loss_type cross_entropy or focal_loss or ohem"
            ],
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
        (
            "--freeze_backbone_itrs 9 --total_itrs 8",
            "--freeze_backbone_itrs 9 is more than --total_itrs 8",
        ),
        ("--warmup_itrs 9 --total_itrs 8", "--warmup_itrs 9 is more than --total_itrs 8"),
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


def test_changes_that_matter_are_named_when_a_run_resumes() -> None:
    then = flat(parse_main([]))
    free = "--keep_checkpoints 9 --early_stop 3 --max_bad_steps 1 --val_tile 99 --ckpt a.pth"
    assert changes_on_resume(then, flat(parse_main(free.split()))) == []
    given = "--lr 0.5 --compile --aspp_rates 1 2 3 --data_root x"
    assert changes_on_resume(then, flat(parse_main(given.split()))) == [
        "--aspp_rates was not given, is now 1 2 3",
        "--compile was off, is now on",
        "--data_root was ./datasets/data, is now x",
        "--lr was 0.01, is now 0.5",
    ]


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ("--clip_grad_norm 1", "", ["--clip_grad_norm was 1.0, is now not given"]),
        # What a run that goes on takes from its checkpoint.
        ("--output_stride 8 --aspp_rates 1 2 3 --bn_momentum 0.5 --separable_conv", "", []),
        ("--bn_momentum 0.5", "--bn_momentum 0.1", ["--bn_momentum was 0.5, is now 0.1"]),
        ("", "--output_stride 8", ["--output_stride was not given, is now 8"]),
    ],
)
def test_what_a_checkpoint_keeps_is_no_change(then: str, now: str, expected: list[str]) -> None:
    before, after = (flat(parse_main(words.split())) for words in (then, now))
    assert changes_on_resume(before, after) == expected


def test_options_of_other_versions_are_no_change() -> None:
    now = flat(parse_main([]))
    assert changes_on_resume({"an_old_one": 1, "lr": 0.01}, now) == []


@pytest.mark.parametrize("user", [*DATASETS, *LOSSES])
def test_what_a_data_set_or_a_loss_uses_is_an_option(user: str) -> None:
    used = DATASETS[user].options if user in DATASETS else LOSSES[user].options
    assert set(used) <= set(flat(parse_main([])))


def test_conditions_name_options_and_their_values() -> None:
    metadata = {name: field.metadata for name, field in fields().items()}
    stated = [
        *filter(None, map(condition, fields().values())),
        *(word for facts in metadata.values() for word in facts["not_with"]),
    ]
    assert len(stated) > 15
    for words in stated:
        name, _, values = words.partition(" ")
        allowed = LOSSES if name == "loss_type" else metadata[name]["choices"] or ()
        assert not values or set(values.split(" or ")) <= set(allowed)


def test_compiling_is_refused_where_batchnorm_counts_all_gpus() -> None:
    compiled = parse_main("--compile --batch_size 4".split())
    with pytest.raises(ValueError, match="leave out --compile, or give --freeze_bn") as caught:
        check_options(compiled, world_size=2, sync_batchnorm=True)
    assert "\n" not in str(caught.value)
    check_options(compiled, world_size=2)
    check_options(compiled, world_size=1)
    frozen = parse_main("--compile --batch_size 4 --freeze_bn".split())
    check_options(frozen, world_size=2, sync_batchnorm=True)
