"""The report in Chromium: what moves, what a click and a hover do, and that nothing goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.browser import Browser
from utils.visualizer import SCORE, History, ValidatedSample
from utils.visualizer.report import save_comparison, save_report

NAMES = ["road", "<img src=x onerror=document.title='run'>", "sky", "never seen"]
PALETTE = np.full((256, 3), 255, np.uint8)
PALETTE[:4] = (200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)


def sample(name: str, prediction: int) -> ValidatedSample:
    """A gray image: road on the left, below it ignored, HTML's class on the right."""
    target = np.zeros((80, 120), np.uint8)
    target[:, 60:], target[60:, :60] = 1, 255
    image = np.full((80, 120, 3), 100, np.uint8)
    found = np.full((80, 120), prediction, np.uint8)
    return ValidatedSample(name, image, target, found, 0.25 if prediction else 0.5, 0.4)


def record_run(folder: Path) -> Path:
    """Three validations, the second one the best."""
    tracker = History(folder / "history.jsonl", resume_step=None)
    colors = ["#c80000", "#00c800", "#0000c8", "#090909"]
    facts = {"class_names": NAMES, "colors": colors, "changed_options": ["lr"]}
    tracker.text("options", {"lr": 0.5, "seed": 1, "total_itrs": 30, "run": facts})
    for step, score in ((10, 0.25), (20, 0.75), (30, 0.5)):
        tracker.scalars(step, {"loss": 3.0 / step, "lr": 0.5})
        tracker.scalars(step, {SCORE: score, "Overall Acc": 0.5, "validation loss": 0.5})
        scores = zip(NAMES, (0.5, 0.25, 0.75, None), (30, 50, 9, 0), strict=True)
        rows = [{"class": n, "IoU": iou, "precision": 0.5, "pixels": p} for n, iou, p in scores]
        tracker.table("classes", step, rows)
        counts = np.array([[27, 3, 0, 0], [0, 50, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0]])
        tracker.confusion(step, counts, NAMES)
        shown = [sample("good", 0), sample(f"worse at {step}", 2)]
        tracker.samples(step, shown, NAMES, PALETTE)
    tracker.close()
    save_report(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Browser]:
    """The report, drawn; a message on the console or a request fails the test."""
    browser.open(f"file://{folder / 'report.html'}", width=1300)
    browser.wait_for(lambda: browser.run("return document.body.dataset.step") == "30")
    yield browser
    assert browser.problems() == []
    assert browser.run("return document.title") != "run"


def move(page: Browser, selector: str, x: float, y: float, *, number: int = 0) -> str:
    """Move the mouse to a place in an element, given as shares of its size; gives the tip."""
    left, top = page.run(
        "const e = document.querySelectorAll(arguments[0])[arguments[3]];"
        "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        "return [b.x + arguments[1] * b.width, b.y + arguments[2] * b.height];",
        selector,
        x,
        y,
        number,
    )
    page.driver.execute_cdp_cmd(
        "Input.dispatchMouseEvent", {"type": "mouseMoved", "x": left, "y": top}
    )
    return page.run(
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>"
        " done(document.getElementById('tip').textContent))))"
    )


def slide(page: Browser, selector: str, value: int) -> None:
    page.run(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input'));",
        selector,
        value,
    )


def pixel(page: Browser, panel: int, x: int, y: int) -> list[int]:
    """A pixel of a panel of the last sample, the good one, after all drawing."""
    return page.run(
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {"
        "const c = [...document.querySelectorAll('canvas')].slice(-3)[arguments[0]];"
        "const one = document.createElement('canvas').getContext('2d');"
        "one.drawImage(c, -arguments[1], -arguments[2]);"
        "done([...one.getImageData(0, 0, 1, 1).data].slice(0, 3)); })))",
        panel,
        x,
        y,
    )


def column(page: Browser, number: int) -> list[str]:
    return page.run(
        "return [...document.querySelectorAll('#classes tbody tr')]"
        ".map(row => row.children[arguments[0]].textContent)",
        number,
    )


def test_the_step_slider_shows_the_first_the_best_and_the_last(page: Browser) -> None:
    names = "return [...document.querySelectorAll('.sample b')].map(b => b.textContent)"
    assert page.run(names) == ["worse at 30", "good"]  # the worst first
    for place, step, word in ((0, 10, "first"), (1, 20, "best"), (2, 30, "last")):
        slide(page, "#step", place)
        page.wait_for(lambda s=step: page.run("return document.body.dataset.step") == str(s))
        assert page.run(names) == [f"worse at {step}", "good"]
        shown = page.run("return document.getElementById('step-name').textContent")
        assert shown.startswith(f"{step} ({word})")


def test_the_opacity_slider_mixes_labels_into_the_image(page: Browser) -> None:
    slide(page, "#opacity", 0)
    assert pixel(page, 0, 10, 10) == pytest.approx([100] * 3, abs=3)
    slide(page, "#opacity", 100)
    assert pixel(page, 0, 10, 10) == [200, 0, 0]
    assert pixel(page, 0, 90, 10) == [0, 200, 0]
    assert pixel(page, 1, 90, 10) == [200, 0, 0]
    slide(page, "#opacity", 50)
    assert pixel(page, 0, 10, 10) == pytest.approx([150, 50, 50], abs=3)
    assert pixel(page, 0, 10, 70) == pytest.approx([100] * 3, abs=3)  # ignored


@pytest.mark.slow
def test_the_error_panel(page: Browser) -> None:
    assert pixel(page, 2, 90, 10) == [213, 94, 0]
    assert pixel(page, 2, 10, 70) == [255, 255, 255]
    assert pixel(page, 2, 10, 10) == pytest.approx([185] * 3, abs=3)


@pytest.mark.slow
def test_a_click_on_a_class_hides_it(page: Browser) -> None:
    slide(page, "#opacity", 100)
    chips = page.driver.find_elements("css selector", "#legend .chip")
    assert [chip.text for chip in chips] == [*NAMES[:3], "all", "none"]
    chips[0].click()
    assert pixel(page, 0, 10, 10) == pytest.approx([100] * 3, abs=3)
    assert pixel(page, 0, 90, 10) == [0, 200, 0]
    chips[0].click()
    assert pixel(page, 0, 10, 10) == [200, 0, 0]
    chips[4].click()  # none
    assert pixel(page, 0, 90, 10) == pytest.approx([100] * 3, abs=3)


@pytest.mark.slow
def test_a_hover_says_what_is_there(page: Browser) -> None:
    assert move(page, "canvas", 0.75, 0.2, number=4) == f"target {NAMES[1]}, predicted road"
    assert move(page, "canvas", 0.25, 0.2, number=3) == "road, found"
    assert move(page, "canvas", 0.25, 0.9, number=5) == "target ignored, predicted road"
    loss = move(page, "#loss", 0.67, 0.5)
    assert loss.startswith("step 20\n") and "validation 0.500" in loss
    assert "mean IoU 0.750" in move(page, "#miou", 0.67, 0.5)


@pytest.mark.slow
def test_a_hover_over_the_confusion(page: Browser) -> None:
    said = set()
    for x in np.linspace(0.3, 0.99, 8):
        for y in (0.5, 0.7, 0.9):
            said.add(move(page, "#confusion", float(x), y))
    assert f"road taken for {NAMES[1]}: 10.0 % (3 pixels)" in said
    assert "sky found: 100.0 % (9 pixels)" in said
    assert not any("never seen" in text for text in said)


@pytest.mark.slow
def test_a_click_on_a_column_sorts_by_it(page: Browser) -> None:
    assert column(page, 1) == ["0.750", "0.500", "0.250"]
    heads = "#classes th"
    page.driver.find_elements("css selector", heads)[1].click()
    assert column(page, 1) == ["0.250", "0.500", "0.750"]
    page.driver.find_elements("css selector", heads)[6].click()
    assert column(page, 6) == ["50", "30", "9"]
    page.driver.find_elements("css selector", heads)[0].click()
    assert column(page, 0) == sorted(NAMES[:3], key=lambda name: name.strip("<"))


@pytest.mark.slow
def test_dark_where_the_reader_prefers_it(page: Browser) -> None:
    def background(scheme: str) -> str:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        return page.run("return getComputedStyle(document.body).backgroundColor")

    assert background("dark") == "rgb(13, 17, 23)"
    assert background("light") == "rgb(245, 247, 249)"


def test_several_runs_in_one_page(browser: Browser, folder: Path, tmp_path: Path) -> None:
    record_run(tmp_path / "other")
    save_comparison([folder, tmp_path / "other"], tmp_path / "both.html")
    browser.open(f"file://{tmp_path / 'both.html'}", width=1300)
    bars = "return document.querySelectorAll('#bars rect').length"
    browser.wait_for(lambda: browser.run(bars) == 6)  # three classes that occur, two runs
    assert "other 0.750" in move(browser, "#miou", 0.67, 0.5)
    assert move(browser, "#bars rect", 0.5, 0.5).startswith("road\n")
    assert browser.problems() == []
