"""The dashboard as a browser shows it: a real server, and Chromium."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import main
from tests.browser import Browser
from tests.helpers import NAME
from tests.utils.visualizer.dashboard.test_dashboard import ALL, NASTY, tell
from tests.utils.visualizer.dashboard.visdom_server import Server
from utils.visualizer import SCORE, Dashboard
from utils.visualizer.dashboard.server import missing_files, page_folder

# Title of each window -> the points of its curves by name, or its text.
LOOK = """
return Object.fromEntries([...document.querySelectorAll('.react-grid-item')].map(item => {
    const plot = item.querySelector('.js-plotly-plot');
    const text = item.querySelector('.content-text');
    const curves = () => Object.fromEntries(plot.data.map(trace => [trace.name, trace.x.length]));
    const title = item.querySelector('.bar > div:last-child').innerText;
    return [title, plot ? curves() : text ? text.innerText : null];
}));
"""
PLACES = """
return Object.fromEntries([...document.querySelectorAll('.react-grid-item')].map(item => {
    const place = item.getBoundingClientRect();
    return [item.querySelector('.bar > div:last-child').innerText,
            [place.left, place.top, place.right, place.bottom]];
}));
"""


@pytest.fixture
def page_server(needs_visdom: None, browser: Browser, tmp_path: Path) -> Iterator[Server]:
    if missing_files(page_folder()):
        pytest.skip(
            "the files of Visdom's page are missing, so the dashboard is NOT tested in a browser; "
            "python -m utils.visualizer assets"
        )
    server = Server(tmp_path / "visdom", with_page=True)
    server.folder.mkdir()
    server.start()
    yield server
    server.stop()


def look(browser: Browser, server: Server, env: str) -> dict[str, Any]:
    """All windows of an environment, once they are drawn; the page is loaded anew."""
    browser.open(f"http://localhost:{server.port}/env/{env}")

    def is_drawn() -> bool:
        windows = browser.run(LOOK)
        return set(windows) >= set(ALL) and None not in windows.values()

    def is_at_rest() -> bool:  # windows glide to their places
        before = browser.run(PLACES)
        time.sleep(0.2)
        return browser.run(PLACES) == before

    browser.wait_for(is_drawn)
    browser.wait_for(is_at_rest)
    return browser.run(LOOK)


def test_short_training_in_a_browser(
    page_server: Server,
    browser: Browser,
    voc_args: Callable[..., list[str]],
    no_figures: None,
    tmp_path: Path,
) -> None:
    assert main.main(voc_args("--enable_vis", "--vis_port", str(page_server.port))) == 0
    folder = tmp_path / "out" / NAME
    env = (folder / "visdom_env.txt").read_text()
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    steps = sum("loss" in line for line in lines)
    validations = sum(SCORE in line for line in lines)
    assert (steps, validations) == (4, 2)

    windows = look(browser, page_server, env)
    train = {"train": steps, "train, smoothed": steps}
    assert windows["Loss"] == {**train, "validation": validations}
    assert windows["Validation"] == {"mIoU": 2, "pixel accuracy": 2, "best": 1}
    assert windows["Learning rate"] == {"head": steps, "backbone": steps}
    assert windows["Speed"] == {"images/s": steps, "data wait, %": steps}
    assert "finished" in windows["Status"] and "4 / 4" in windows["Status"]
    assert windows["Samples"].count("prediction") == 3  # the data set has no more images
    assert "--enable_vis" in windows["Options"] and "total_itrs" in windows["Options"]

    places = browser.run(PLACES)
    for title in ("Status", "Loss", "Validation", "Class IoU"):
        assert places[title][3] <= 860  # on the first screen
    assert sorted(places, key=lambda title: places[title][1::-1]) == ALL  # in reading order
    assert max(place[2] for place in places.values()) <= 1600
    assert browser.problems() == []


@pytest.mark.slow
def test_names_of_classes_files_and_folders_are_shown_as_they_are(
    page_server: Server, browser: Browser, tmp_path: Path
) -> None:
    env = f"nasty {NASTY}"
    tracker = Dashboard(env, folder=tmp_path / NASTY.replace("/", ""), port=page_server.port)
    tracker.text("options", {"data_root": NASTY, "run": {"host": NASTY}})
    tell(tracker)
    assert tracker.finish(limit=20)
    windows = look(browser, page_server, tracker.env)
    for title in ("Status", "Samples", "Options"):
        assert NASTY in windows[title]
    shown = browser.run("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert any("<img src=x" in text for text in shown)
    assert browser.run("return document.querySelectorAll('img[src=x]').length") == 0
    assert browser.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["killed", "frozen"])
def test_open_page_goes_on_after_trouble(
    trouble: str, page_server: Server, browser: Browser, tmp_path: Path
) -> None:
    tracker = Dashboard("trouble", folder=tmp_path, port=page_server.port)
    tell(tracker)
    look(browser, page_server, "trouble")
    browser.wait_for(lambda: browser.run(LOOK)["Loss"]["train"] == 2)
    if trouble == "killed":
        page_server.stop()
        tracker.scalars(21, {"loss": 1.0})
        page_server.start()
        browser.problems()  # the page says that the server was gone
    else:
        page_server.signal(signal.SIGSTOP)
        tracker.scalars(21, {"loss": 1.0})
        page_server.signal(signal.SIGCONT)
    assert tracker.finish(limit=20)
    assert look(browser, page_server, "trouble")["Loss"]["train"] == 3
    assert browser.problems() == []


@pytest.mark.slow
def test_open_page_is_updated_and_its_layout_stays(
    page_server: Server, browser: Browser, tmp_path: Path
) -> None:
    tracker = Dashboard("live", folder=tmp_path, port=page_server.port)
    assert look(browser, page_server, "live")["Loss"]["train"] == 0
    before = browser.run(PLACES)
    tell(tracker)
    browser.wait_for(lambda: browser.run(LOOK)["Validation"]["best"] == 1)
    browser.wait_for(lambda: "mIoU 0.500" in browser.run(LOOK)["Samples"])
    assert browser.run(PLACES) == before
    # Visdom's own smoothing of curves works on ours.
    browser.run("document.querySelectorAll('[title^=smooth]').forEach(button => button.click())")
    browser.wait_for(lambda: browser.run("return document.querySelector('#app .react-grid-item')"))
    assert browser.problems() == []
    tracker.close()
