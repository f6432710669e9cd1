from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.base import SegmentationDataset
from datasets.check.contact_sheet import save_contact_sheet
from datasets.facts import ClassFacts, make_label_table, make_palette

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


class Halves(SegmentationDataset):
    """Gray images whose upper half is class 0, their lower half ignored or class 1."""

    facts = ClassFacts(
        ("red", "a very long name, longer than a cell of the legend", "blue"),
        make_palette([RED, GREEN, BLUE]),
        make_label_table({0: 0, 1: 1, 2: 2}),
    )

    def __init__(self, size: tuple[int, int], *, lower: int) -> None:
        super().__init__()
        self.size, self.lower = size, lower

    def __len__(self) -> int:
        return 9

    def sample_name(self, index: int) -> str:
        return f"folder/with a name that is much too long for its place/{index:080d}"

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        label = np.zeros(self.size, np.uint8)
        label[self.size[0] // 2 :] = self.lower
        return np.full((*self.size, 3), 100, np.uint8), label


def count(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((pixels == color).all(axis=2).sum())


def drawn(tmp_path: Path, dataset: Halves, num_samples: int) -> np.ndarray:
    path = tmp_path / "new folder" / "sheet.png"
    save_contact_sheet({"train": dataset}, [("train", i) for i in range(num_samples)], path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("size", [(36, 48), (900, 1200), (450, 40), (3, 4000)])
def test_every_sample_is_there_beside_its_label(
    tmp_path: Path, size: tuple[int, int], num_samples: int
) -> None:
    scale = min(300 / size[1], 225 / size[0])
    area = max(round(size[0] * scale), 1) * max(round(size[1] * scale), 1)
    sheet = drawn(tmp_path, Halves(size, lower=255), num_samples)
    bare, red = count(sheet, (100, 100, 100)), count(sheet, (160, 40, 40))
    if size[0] > 3:  # there halves share their only row
        assert red == pytest.approx(num_samples * area / 2, rel=0.02)
        assert bare == pytest.approx(num_samples * area * 1.5, rel=0.02)


def test_the_legend_has_the_classes_that_occur(tmp_path: Path) -> None:
    sheet = drawn(tmp_path, Halves((36, 48), lower=1), 3)
    for color in ((160, 40, 40), (40, 160, 40)):
        assert count(sheet, color) in (3 * 300 * 112, 3 * 300 * 113)  # of 225 rows
    legend = sheet[-36:]
    squares = [count(legend, color) for color in (RED, GREEN, BLUE)]
    assert squares[0] == squares[1] > 150 and squares[2] == 0
    assert count(legend, (0, 0, 0)) > 20


def test_no_sample_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="needs a sample, but no image of the data set can be read"
    ):
        save_contact_sheet({}, [], tmp_path / "sheet.png")
