"""The page in a real Chromium, as people use it: every control, at a desk and on a phone."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import arrives, as_phone, chromium, until
from PIL import Image
from trainings import PRETENDED

from sdd_fast.app.launch import serving
from sdd_fast.app.training import Trainer
from sdd_fast.editing.editor import Editor
from sdd_fast.images import load_image, to_pil

pytest.importorskip("gradio", reason="pip install 'sdd_fast[app]'")
httpx = pytest.importorskip("httpx")

PICTURES = "document.querySelectorAll('#pictures img')"
TOLD = "document.querySelector('#told p')?.textContent"


@pytest.fixture(scope="module")
def address(home: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "program", (sys.executable, str(PRETENDED)))
        with serving(home.studio(), port=port) as there:
            yield there


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("downloads")) as chrome:
        yield chrome


class Page:
    """What a person sees of the page, and does with it."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        until(browser, f"{TOLD}?.includes('ms')")

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def picture(self, which: int = 1) -> np.ndarray:
        """What lies behind the image before (0) or after (1)."""
        data = httpx.get(self.run(f"return {PICTURES}[{which}].src")).content
        return np.asarray(Image.open(BytesIO(data)).convert("RGB"))

    def shows(self, wanted: np.ndarray, which: int = 1) -> None:
        """Wait until a picture is shown, which then stays."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60, 0.1).until(
            lambda _: np.array_equal(self.picture(which), wanted)
        )

    def sliders(self) -> list[Any]:
        found = self.browser.find_elements("css selector", ".strength input[type=range]")
        return [slider for slider in found if slider.is_displayed()]

    def drag(self, index: int, value: float) -> None:
        self.run(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', { bubbles: true }))",
            self.sliders()[index], value,
        )  # fmt: skip

    def values(self) -> list[float]:
        return [float(slider.get_attribute("value")) for slider in self.sliders()]

    def click(self, selector: str) -> Any:
        until(self.browser, f"document.querySelector({json.dumps(selector)})?.checkVisibility()")
        found = self.browser.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({ block: 'center' })", found)
        found.click()
        return found

    def tab(self, name: str) -> None:
        tabs = self.browser.find_elements("css selector", "[role=tab]")
        next(tab for tab in tabs if tab.text == name and tab.rect["height"] > 8).click()

    def says(self, words: str) -> None:
        until(self.browser, f"document.body.innerText.includes({json.dumps(words)})")


def editor_of(home: Any, *more: str) -> Editor:
    return Editor.load([*home.given, *(home.folder / name for name in more)], home.domain)


def wanted(editor: Editor, image: Any, *strengths: float, levels: Any = None) -> np.ndarray:
    return np.asarray(to_pil(editor.edit(image, list(strengths), levels)[0]))


def test_the_page_in_a_browser(
    request: pytest.FixtureRequest, home: Any, tmp_path: Path, address: str
) -> None:
    """One test: workers that share it would each start a server and a browser."""
    browser = request.getfixturevalue("browser")
    page = Page(browser, address)
    sample = home.studio().samples
    check_sliders(page, editor_of(home), sample[0])
    check_keys(page)
    check_levels(page, editor_of(home), sample[1])
    check_files(page, home, tmp_path)
    check_animation(page)
    check_added(page, editor_of(home, "beard"), sample[0])
    check_reports(page)
    check_training(page)
    check_hosts(page)
    check_two_tabs(page, editor_of(home), sample, address)
    check_phone(browser, address)
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def check_sliders(page: Page, editor: Editor, sample: Any) -> None:
    """A drag ends at its last value; a double click and the buttons reset."""
    from selenium.webdriver import ActionChains

    page.shows(wanted(editor, sample, 1.0, 0.0))
    assert np.array_equal(page.picture(0), np.asarray(sample))
    for step in range(40):
        page.drag(1, -1.5 + step / 20)
    page.drag(1, -0.75)
    page.shows(wanted(editor, sample, 1.0, -0.75))
    for index in (0, 1, 0, 1, 0):  # two sliders in turn
        page.drag(index, 1.5 - index)
    page.drag(0, 0.25)
    page.shows(wanted(editor, sample, 0.25, 0.5))
    ActionChains(page.browser).double_click(page.sliders()[0]).perform()
    page.shows(wanted(editor, sample, 1.0, 0.5))
    page.click(".strength:nth-of-type(2) .reset-button")
    page.drag(0, 2)
    page.click("#reset")
    page.shows(wanted(editor, sample, 1.0, 0.0))
    assert page.values() == [1.0, 0.0]


def check_keys(page: Page) -> None:
    """Sliders and divider move by keys."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    slider = page.sliders()[0]
    slider.send_keys(Keys.ARROW_RIGHT)
    until(page.browser, "document.querySelector('.strength input[type=range]').value === '1.05'")
    slider.send_keys(Keys.ARROW_LEFT)
    divider = page.browser.find_element("css selector", "#pictures [role=slider]")
    page.run("arguments[0].focus()", divider)
    clip = f"{PICTURES}[1].style.clipPath"
    for key, share in ((Keys.HOME, 0), (Keys.ARROW_RIGHT, 5), (Keys.END, 100), (Keys.PAGE_UP, 100)):
        ActionChains(page.browser).send_keys(key).perform()
        until(page.browser, f"Math.abs(parseFloat({clip}.split(' ').pop()) - {share}) < 1.5")
    assert divider.get_attribute("aria-valuenow") == "100"


def check_levels(page: Page, editor: Editor, sample: Any) -> None:
    """Levels are switched off and on, on another sample."""
    page.click("#samples .gallery-item:nth-of-type(2) button")
    page.shows(wanted(editor, sample, 1.0, 0.0))
    boxes = page.browser.find_elements("css selector", "#levels input")
    assert [box.accessible_name for box in boxes] == [
        "coarse: pose, shape", "medium: features, expression",
    ]  # fmt: skip
    boxes[0].click()
    page.shows(wanted(editor, sample, 1.0, 0.0, levels=["medium"]))
    boxes[0].click()
    page.shows(wanted(editor, sample, 1.0, 0.0))


def check_files(page: Page, home: Any, folder: Path) -> None:
    """A photograph is chosen, edited, downloaded whole; what is none is told."""
    photo = Image.effect_noise((90, 70), 80).convert("RGB").resize((300, 200))
    photo.save(folder / "me.png")
    (folder / "notes.png").write_text("no picture")
    Image.new("1", (20000, 10000)).save(folder / "large.png")
    chooser = "#photo input[type=file]"
    for name, told in (("notes.png", "is not an image that can be read"),
                       ("large.png", "200 million pixels")):  # fmt: skip
        page.browser.find_element("css selector", chooser).send_keys(str(folder / name))
        page.says(told)
        until(page.browser, "!document.querySelector('#photo img')")  # ready for another one
    page.browser.find_element("css selector", chooser).send_keys(str(folder / "me.png"))
    image, editor = load_image(folder / "me.png")[None], editor_of(home)
    page.shows(wanted(editor, image, 1.0, 0.0))
    page.drag(1, 2)
    page.shows(wanted(editor, image, 1.0, 2.0))
    page.click("#into-photo input")
    page.click("#download")
    whole = Image.open(arrives(page.browser.downloads / "me-edited.png"))
    assert np.array_equal(whole, editor.edit_photo(folder / "me.png", [1.0, 2.0]))
    page.click("#reset")


def check_animation(page: Page) -> None:
    page.click("#animate button")
    page.click("#make-animation")
    source = until(page.browser, "document.querySelector('#film img')?.src")
    with Image.open(BytesIO(httpx.get(source).content)) as film:
        assert film.n_frames > 40  # type: ignore[attr-defined]


def check_added(page: Page, editor: Editor, sample: Any) -> None:
    """A run is added, and one of another domain is not."""
    page.click("#samples .gallery-item:nth-of-type(1) button")
    page.click("#adder button")
    for name in ("red cat", "a beard"):
        page.click("#runs input")
        page.click(f"#runs [role=option][aria-label*='{name}']")
        page.click("#add")
        page.says("another domain: cats" if name == "red cat" else "a beard")
    until(page.browser, "document.querySelectorAll('.strength input[type=range]').length === 3")
    assert page.values() == [1.0, 0.0, 1.0]
    page.shows(wanted(editor, sample, 1.0, 0.0, 1.0))
    page.drag(2, -1)
    page.shows(wanted(editor, sample, 1.0, 0.0, -1.0))


def check_reports(page: Page) -> None:
    """A report is shown in a frame in which nothing runs."""
    page.tab("Report")
    frame = "document.querySelector('#report iframe')"
    until(page.browser, frame)
    page.browser.switch_to.frame(page.browser.find_element("css selector", "#report iframe"))
    assert page.browser.find_element("id", "told").text == "A report"
    page.browser.switch_to.default_content()
    assert page.run("return window.broken") is None
    assert page.run(f"return {frame}.sandbox.value") == ""


def check_training(page: Page) -> None:
    """A training is started, watched and stopped."""
    from selenium.webdriver.common.keys import Keys

    page.tab("Train")
    page.click("#start")
    page.says("the prompt is empty")
    prompt = page.click("#prompt input")
    prompt.send_keys("wait", Keys.TAB)
    page.click("#start")
    page.says("3 of 20 steps; residual 5.1")
    for name in ("sample", "training-curve", "hqs-curve"):
        until(page.browser, f"document.querySelector('#{name} img')?.naturalWidth > 0")
        assert page.browser.find_element("css selector", f"#{name} img").accessible_name
    page.click("#stop")
    page.says("Stopped. Start it with the same settings")
    page.says("stopped after 3 steps")
    assert page.browser.find_element("css selector", "#start").is_enabled()


def check_hosts(page: Page) -> None:
    """Nobody else was asked for anything."""
    hosts = page.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        ".filter((name) => name.startsWith('http')).map((name) => new URL(name).host)"
    )
    assert set(hosts) == {page.run("return location.host")}


def check_two_tabs(page: Page, editor: Editor, samples: Any, address: str) -> None:
    """Each tab keeps its picture and its edits."""
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    other = Page(page.browser, address)
    other.click("#samples .gallery-item:nth-of-type(3) button")
    other.drag(1, 1)
    other.shows(wanted(editor, samples[2], 1.0, 1.0))
    assert len(other.sliders()) == 2
    page.browser.close()
    page.browser.switch_to.window(first)
    page.tab("Edit")
    assert page.values() == [1.0, 0.0, -1.0]


def check_phone(browser: Any, address: str) -> None:
    """It fits a phone, and every control has a name and can be hit."""
    with as_phone(browser):
        page = Page(browser, address)
        for tab in ("Edit", "Report", "Train"):
            page.tab(tab)
            assert page.run("return document.documentElement.scrollWidth") <= 360
            controls = browser.find_elements(
                "css selector", "input, button, textarea, [role=slider]"
            )
            seen = [c for c in controls if c.is_displayed() and c.rect["height"] > 1]
            assert len(seen) >= 4
            assert [c.get_attribute("outerHTML") for c in seen if not c.accessible_name] == []
        page.tab("Edit")
        assert all(slider.rect["height"] >= 24 for slider in page.sliders())
        page.drag(0, 0.5)
        until(browser, f"{TOLD}?.includes('ms')")
