"""Headless Chromium for tests of pages; the fixture is in conftest.py."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

MISSING = (
    "Chromium is not installed, so pages are NOT tested in it; on Debian: "
    "apt-get install chromium chromium-driver, and pip install selenium"
)
LOCAL = (
    "http://127.0.0.1",
    "http://localhost",
    "ws://127.0.0.1",
    "ws://localhost",
    "file:",
    "data:",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # for root
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
)


def is_installed() -> bool:
    try:
        import selenium  # noqa: F401
    except ImportError:
        return False
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Browser:
    """A browser that notes what pages write to the console and ask for."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=Service(shutil.which("chromedriver"))
        )

    def open(self, url: str, *, width: int = 1600, height: int = 860) -> None:
        """Load a page in a view of this size; what was noted before is forgotten."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        self.problems()
        self.driver.get(url)

    def run(self, script: str, *values: Any) -> Any:
        """The value that JavaScript returns."""
        return self.driver.execute_script(script, *values)

    def wait_for(self, condition: Callable[[], object], *, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the page does not show it in time"
            time.sleep(0.1)

    def problems(self) -> Sequence[str]:
        """Messages on the console, and requests that leave this machine, since the last look."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        asked = [
            event["params"].get("url") or event["params"]["request"]["url"]
            for event in events
            if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
        ]
        return messages + [url for url in asked if not url.startswith(LOCAL)]

    def close(self) -> None:
        self.driver.quit()
