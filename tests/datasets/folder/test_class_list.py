"""Class lists in both formats, and what mistakes in them say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.folder.class_list import ClassList, find_class_list, read_class_list


def read(folder: Path, name: str, content: str | bytes) -> ClassList:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert find_class_list(folder) == path
    return read_class_list(path)


def known_values(class_list: ClassList) -> dict[int, int]:
    table = class_list.facts.label_table
    return {value: int(table[value]) for value in range(256) if table[value] != -1}


def test_a_line_is_the_name_of_its_value(tmp_path: Path) -> None:
    got = read(tmp_path, "classes.txt", "road\n  building,  edifice \nhäuser 2\n\n\n")
    assert got.facts.class_names == ("road", "building, edifice", "häuser 2")
    assert known_values(got) == {0: 0, 1: 1, 2: 2, 255: 255}
    assert got.facts.colors is None and not got.has_values
    # Colors that are told apart, and black for what is ignored.
    expected = [[0, 0, 255], [255, 255, 0], [105, 105, 195]]
    assert got.facts.palette[:3].tolist() == expected
    assert got.facts.palette[255].tolist() == [0, 0, 0]


def test_ignored_is_no_class(tmp_path: Path) -> None:
    got = read(tmp_path, "classes.txt", "ignored\nwall\nignored\nsky\n")
    assert got.facts.class_names == ("wall", "sky")
    assert known_values(got) == {0: 255, 1: 0, 2: 255, 3: 1, 255: 255}


@pytest.mark.parametrize(
    "lines",
    [
        ["name,r,g,b", "road,128,64,128", "sky,70,130,180", "ignored,0,0,0"],
        ["Name, R, G, B", "road, 128,64,128", "", " sky,70,130,180", ",,,", "ignored,0,0,0"],
        ["name,color", "road,#804080", "sky,4682B4", "ignored,#000000"],
        ["name;color", "road;#804080", "sky;#4682b4", "ignored;#000000"],
        ["color\tname", "#804080\troad", '#4682b4\t"sky"', "#000000\tignored"],
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_with_colors(tmp_path: Path, lines: list[str], line_end: str, mark: str) -> None:
    got = read(tmp_path, "classes.csv", mark + line_end.join(lines))
    assert got.facts.class_names == ("road", "sky")
    assert got.facts.colors == {(128, 64, 128): 0, (70, 130, 180): 1, (0, 0, 0): 255}
    assert got.facts.palette[:3].tolist() == [[128, 64, 128], [70, 130, 180], [0, 0, 0]]
    assert known_values(got) == {0: 0, 1: 1, 2: 255, 255: 255}
    assert not got.has_values


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.csv", "name,value\nground,0\nroad,7;9-11\nignored,3; 200-202"),
        ("classes.csv", 'name;value\nground;0\nroad;"7;9-11"\nignored;"3;200-202"'),
    ],
)
def test_stated_values(tmp_path: Path, name: str, content: str) -> None:
    got = read(tmp_path, name, content)
    road, ignored = dict.fromkeys((7, 9, 10, 11), 1), dict.fromkeys((3, 200, 201, 202, 255), 255)
    assert known_values(got) == {0: 0} | road | ignored
    assert got.has_values


def test_a_class_may_have_the_value_255(tmp_path: Path) -> None:
    got = read(tmp_path, "classes.csv", "name,value\nbackground,0\ncell,255\n")
    assert known_values(got) == {0: 0, 255: 1}


def test_ignored_may_have_values_where_classes_have_none(tmp_path: Path) -> None:
    got = read(tmp_path, "classes.csv", "name,value\nsky,\nsea,\nignored,9;200\n")
    assert known_values(got) == {0: 0, 1: 1, 9: 255, 200: 255, 255: 255}


def test_the_most_there_can_be(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(255)]
    got = read(tmp_path, "classes.txt", "\n".join(names))
    assert got.facts.class_names == tuple(names)
    assert np.array_equal(got.facts.label_table, np.arange(256))
    assert len(np.unique(got.facts.palette, axis=0)) == 256


CSV = "classes.csv"
TXT = "classes.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TXT, "", "is empty"),
        (TXT, " \n\n", "is empty"),
        (TXT, b"road\nh\xe4user\n", "line 2 is not UTF-8"),
        (TXT, "a\nb\n".encode("utf-16"), "line 1 is not UTF-8"),
        (TXT, "a\nb\0\n", "zero bytes"),
        (TXT, "a\n\nb\n", "line 2 is empty"),
        (TXT, "a\nb\na\n", "line 3: the name 'a' is also that of line 1"),
        (TXT, "a\nroad,128,64,128\n", "line 2, 'road,128,64,128', holds more than a name"),
        (TXT, "0: a\n1: b\n", "line 1, '0: a', holds more than a name"),
        (TXT, "a\nb\x1b[2J\n", r"line 2: the name 'b\\x1b\[2J' holds control characters"),
        (TXT, "a\nignored\n", "names 1 classes, allowed are 2..255"),
        (TXT, "\n".join(f"c{i}" for i in range(256)), "names 256 classes, allowed are 2..255"),
        (TXT, "ignored\n" * 255 + "a\nb\n", "line 257 is row number 256 or more"),
        (CSV, "a,b\n1,2\n", "line 1 is 'a, b'; the header must be name, perhaps with color"),
        (CSV, "road,128,64,128\n", "the header must be name"),
        (CSV, "name,r,g\na,1,2\n", "the header must be name"),
        (CSV, "name,hue\na,#000000\n", "the header must be name"),
        (CSV, "name,name\na,b\n", "the header must be name"),
        (CSV, "name,r,g,b,color\n", "the header must be name"),
        (CSV, "name\n", "names 0 classes"),
        (CSV, "name,value\na,1\nb,2,3\n", "line 3 has 3 fields, the header 2"),
        (CSV, 'name,value\na,"1\n', "line 3 is not CSV: unexpected end"),
        (CSV, "name,value\n,1\nb,2\n", "line 2 has no name"),
        (CSV, "name,value\na,1\nb,1\n", "line 3: the value 1 is also that of line 2"),
        (CSV, "name,value\na,1-5\nb,5\n", "line 3: the value 5 is also that of line 2"),
        (CSV, "name,value\na,5;5\nb,6\n", "line 2: the value 5 is also that of line 2"),
        (CSV, "name,value\na,0\nb,256\n", "line 3: values must be 0..255"),
        (CSV, "name,value\na,0\nb,0-999999999\n", "line 3: values must be 0..255"),
        (CSV, "name,value\na,0\nb,5-3\n", "line 3: .* ranges in ascending order, got '5-3'"),
        (CSV, "name,value\na,0\nb,-1\n", "line 3: a value is written 7 or 7;9;20-25, got '-1'"),
        (CSV, "name,value\na,0\nb,\n", "line 3, class 'b', has no value, but others have one"),
        (CSV, "name,color\na,\nb,#000000\n", "line 2, class 'a', has no color"),
        (CSV, "name,color\na,#000\nb,#000000\n", "line 2: a color is written #rrggbb, got '#000'"),
        (
            CSV,
            "name,r,g,b\na,0,0,0\nb,0,0,256\n",
            "line 3: r, g and b are numbers 0..255, got 0, 0, 256",
        ),
        (CSV, "name,r,g,b\na,0,0,0\nb,0,,1\n", "line 3: r, g and b are numbers 0..255, got 0, , 1"),
        (
            CSV,
            "name,r,g,b\na,0,1,2\nb,0,1,2\n",
            r"line 3: the color \(0, 1, 2\) is also that of line 2",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, name, content)
    assert str(caught.value).startswith(f"{tmp_path / name} ")
    assert "\n" not in str(caught.value)


def test_two_lists_are_an_error(tmp_path: Path) -> None:
    assert find_class_list(tmp_path) is None
    for name in (TXT, CSV):
        (tmp_path / name).write_text("a")
    with pytest.raises(ValueError, match="holds classes.txt and classes.csv; keep one"):
        find_class_list(tmp_path)


def test_json_is_answered_with_what_to_write_instead(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["a", "b"]')
    with pytest.raises(ValueError, match=r"classes\.json is not read; write a classes\.txt"):
        find_class_list(tmp_path)
