"""`@FILE` on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from utils import options

ROOT = Path(__file__).parents[3]


def refusal(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        options.parse_main([f"@{name}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def test_a_file_holds_flags_and_comments_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.txt"
    recipe.write_text(
        "# a comment\n--lr 0.5 --batch_size 4  # another\n\n--data_root 'a b'\n"
        "--scale_range 1 1.5\n"
    )
    parsed = options.parse_main([f"@{recipe}", "--lr", "0.25"])
    assert (parsed.optim.lr, parsed.data.batch_size) == (0.25, 4)
    assert (parsed.data.data_root, parsed.data.scale_range) == ("a b", (1.0, 1.5))


def test_a_file_may_begin_with_a_byte_order_mark_and_name_files(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.txt", tmp_path / "outer.txt"
    inner.write_bytes(b"\xef\xbb\xbf--lr 0.5\r\n--ema 0.25\r\n")
    outer.write_text(f"@{inner}\n--lr 0.125\n")
    optim = options.parse_main([f"@{outer}"]).optim
    assert (optim.lr, optim.ema) == (0.125, 0.25)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"--lr '0.1", "No closing quotation: --lr '0.1"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"@recipe.txt", "includes itself"),
        (b"--lr 0.1\n" * 200_000, "is larger than 32,768 bytes"),
        (b"# no option\n" * 200_000, "is larger than 32,768 bytes"),
    ],
    ids=["quote", "UTF-16", "itself", "options", "comments"],
)
def test_a_broken_file_is_one_line(
    content: bytes, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.txt").write_bytes(content)
    assert f"argument file recipe.txt{' ' if expected[0] == 'i' else ': '}{expected}" in refusal(
        "recipe.txt", capsys
    )


def test_the_largest_file_takes_little_time(tmp_path: Path) -> None:
    (tmp_path / "recipe.txt").write_bytes(b"--lr=1\n" * (32_768 // 7))
    begin = time.perf_counter()
    options.parse_main([f"@{tmp_path / 'recipe.txt'}"])
    assert time.perf_counter() - begin < 10


def test_a_mistyped_recipe_names_those_there_are(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    error = refusal("recipes/shaps.txt", capsys)
    assert "recipes/shaps.txt does not exist; did you mean @recipes/shapes.txt?" in error
    paths = (ROOT / "recipes").glob("*.txt")
    assert all((path.name in error) == ("_weights" not in path.name) for path in paths)
    assert "; recipes: recipes/" in refusal("nothing", capsys)


def test_a_folder_is_no_argument_file(tmp_path: Path, capsys) -> None:
    assert f"can't read argument file {tmp_path}: " in refusal(str(tmp_path), capsys)
