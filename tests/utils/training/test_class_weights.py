"""The file of class weights: read by name, and wrong lines are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.training.class_weights import read_class_weights


def test_class_weights_come_from_a_file_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.txt"
    path.write_text("# thin ones\n2.5  traffic light  # rare\n\n1 road\n")
    weights = read_class_weights(str(path), ["road", "traffic light", "unused 2"])
    assert weights.tolist() == [1.0, 2.5, 0.0]
    assert read_class_weights("none", ["road"]) is None


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "weights.txt"
    path.write_text("\ufeff1 road\n0 sky\n")
    assert read_class_weights(str(path), ["road", "sky"]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 road\n", "no weight for sky"),
        ("1 raod\n1 sky", "'1 raod'"),
        ("x road\n", "'x' in"),
        ("0 road\n0 sky\n", "weights.txt: every weight is 0"),
    ],
)
def test_class_weights_that_make_no_sense_are_named(
    text: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_class_weights(str(path), ["road", "sky"])
