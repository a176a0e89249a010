"""A headless Chromium for tests of pages; skipped, with the reason, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """A driver of a new browser, which saves into `downloads`."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no chromium with chromedriver (apt install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        chrome.downloads = downloads
        chrome.set_window_size(1100, 900)
        yield chrome


@contextmanager
def as_phone(browser: Any) -> Iterator[None]:
    """Within it, pages are shown as on a phone."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def until(browser: Any, script: str, seconds: float = 60) -> Any:
    """Wait until a script's value is true; return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, 0.05).until(
        lambda chrome: chrome.execute_script(f"return {script}")
    )


def arrives(path: Path) -> Path:
    """Wait until a download is there."""
    import time

    for _ in range(600):
        if path.exists():
            return path
        time.sleep(0.05)
    raise AssertionError(f"{path} was not downloaded")
