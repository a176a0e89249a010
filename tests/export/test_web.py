"""The folder of `sdd export --format web`, and its page in a real Chromium.

Skipped, with the reason, where there is no Chromium with its driver, or where onnxruntime-web can
be had neither from the cache nor from the registry.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import arrives, as_phone, chromium, until
from cli_runner import Sdd
from PIL import Image
from tiny_domain import write_tiny_domain

from sdd_fast.editing.editor import Editor
from sdd_fast.export import browser_runtime
from sdd_fast.export.web import export_web
from sdd_fast.images import load_image
from sdd_fast.manipulator import MapperInfo, save_mapper
from sdd_fast.models import LevelsMapper

PROMPTS = ("white hair", "old <b>&amp;</b>")  # the latter is text, not HTML


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> tuple[Path, list[Path]]:
    """A domain of random weights, and two mappers in it."""
    folder = tmp_path_factory.mktemp("web")
    domain = write_tiny_domain(folder / "tiny", tiny_sd)
    paths = []
    for i, prompt in enumerate(PROMPTS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(i)
            mapper = LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False)
        info = MapperInfo(prompt, 3.0, ("coarse", "medium"), (800,), "tiny")
        paths.append(folder / f"{i}.safetensors")
        save_mapper(paths[-1], mapper, info)
    return domain, paths


@pytest.fixture(scope="module")
def runtime() -> dict[str, bytes]:
    try:
        return browser_runtime.runtime_files(None)
    except OSError as error:
        pytest.skip(f"onnxruntime-web cannot be had: {error}")


@pytest.fixture(scope="module")
def site(edits: tuple[Path, list[Path]], runtime: dict[str, bytes]) -> Path:
    folder = edits[0].parent / "site"
    export_web(edits[1], folder, domain=edits[0], license="of the test")
    return folder


class Server(ThreadingHTTPServer):
    asked: list[str]


LOST = b"""export * from "./ort.wasm.bundle.min.mjs";
export const InferenceSession = { create: async () => ({ run: async ({ images }) => {
  if (images) return { w_plus: { data: new Float32Array(8 * 16), dims: [1, 8, 16] } };
  throw new Error("it was unplugged.");
} }) };
"""  # a graphics card that encodes every picture as zeros and then is gone


class Handler(SimpleHTTPRequestHandler):
    """A plain file server, with a policy against WebAssembly below /blocked/, and below /lost/ a
    runtime that loses the graphics card."""

    def do_GET(self) -> None:
        if not self.path.endswith("/lost/runtime/ort.webgpu.bundle.min.mjs"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(LOST)))
        self.end_headers()
        self.wfile.write(LOST)

    def end_headers(self) -> None:
        if "blocked" in self.path:
            self.send_header("Content-Security-Policy", "script-src 'self'")
        super().end_headers()

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/blocked/", "/").replace("/lost/", "/"))

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("downloads")) as chrome:
        yield chrome


def shown(browser: Any) -> np.ndarray:
    """The edited picture's values, [H, W, 3]."""
    data = browser.execute_script(
        "const c = document.getElementById('after');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    return np.array(data).reshape(32, 32, 4)[:, :, :3]


def set_slider(browser: Any, name: str, value: float) -> None:
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input'))",
        name, value,
    )  # fmt: skip


def expected(edits: tuple[Path, list[Path]], path: Path, strengths: list[float]) -> np.ndarray:
    editor = Editor.load(edits[1], edits[0])
    return values_of(editor.edit(load_image(path)[None], strengths)[0])


def values_of(image: torch.Tensor) -> np.ndarray:
    return ((image + 1) * 127.5).permute(1, 2, 0).numpy()


def test_the_folder_and_its_page_in_a_browser(
    request: pytest.FixtureRequest, site: Path, address: str, edits: tuple[Path, list[Path]],
    tmp_path: Path,
) -> None:  # fmt: skip
    """One test: workers that share it would each export the networks and start a browser."""
    check_folder(site, edits)
    browser = request.getfixturevalue("browser")
    check_edits(browser, address, site, edits)
    check_wrong_files(browser, address, site, tmp_path)
    check_blocked(browser, address)
    check_without_graphics_card(browser, address, site, edits)
    check_phone(browser, address)


def check_folder(site: Path, edits: tuple[Path, list[Path]]) -> None:
    about = json.loads((site / "edit.json").read_text(encoding="utf-8"))
    assert [edit["prompt"] for edit in about["edits"]] == list(PROMPTS)
    assert about["license"] == "of the test" and about["input_size"] == [32, 32]
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < 12e6  # of which 10 are onnxruntime-web
    assert "Microsoft" in (site / "runtime/NOTICE.txt").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="is there already"):
        export_web(edits[1], site, domain=edits[0])


def check_edits(browser: Any, address: str, site: Path, edits: tuple[Path, list[Path]]) -> None:
    """The page edits as the Python editor does, by mouse and keyboard, and asks nobody else."""
    browser.get(address)
    until(browser, "document.body.dataset.shown === '1 0'")
    assert browser.execute_script("return document.body.dataset.backend") == "wasm"
    first = shown(browser)
    assert abs(first - expected(edits, site / "samples/1.png", [1.0, 0.0])).max() <= 1
    labels = [label.text for label in browser.find_elements("css selector", ".slider label")]
    assert labels == list(PROMPTS)

    set_slider(browser, "strength-1", -1.5)
    until(browser, "document.body.dataset.shown === '1 -1.5'")
    edited = shown(browser)
    assert abs(edited - first).max() > 2
    assert abs(edited - expected(edits, site / "samples/1.png", [1.0, -1.5])).max() <= 1

    # A drag: only the last value counts.
    for step in range(30):
        set_slider(browser, "strength-0", step / 15)
    set_slider(browser, "strength-0", 0.5)
    until(browser, "document.body.dataset.shown === '0.5 -1.5'")

    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    slider = browser.find_element("id", "strength-0")
    slider.send_keys(Keys.ARROW_RIGHT)
    until(browser, "document.body.dataset.shown.startsWith('0.55')")
    ActionChains(browser).double_click(slider).perform()
    until(browser, "document.body.dataset.shown === '1 -1.5'")

    browser.execute_script("document.getElementById('divider').focus()")
    ActionChains(browser).send_keys(Keys.HOME).perform()
    left = "document.getElementById('pictures').style.getPropertyValue('--divider') === '0%'"
    assert until(browser, left)

    browser.find_element("css selector", "#samples button:nth-child(2)").click()
    until(browser, "document.getElementById('status').textContent.includes('ms')")
    browser.find_element("id", "download").click()
    assert Image.open(arrives(browser.downloads / "edited.png")).size == (32, 32)

    hosts = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)"
    )
    assert set(hosts) == {browser.execute_script("return location.host")}
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def check_wrong_files(browser: Any, address: str, site: Path, folder: Path) -> None:
    """What cannot be opened is said, and the page goes on."""
    (folder / "notes.png").write_text("no picture")
    Image.new("L", (9000, 8000)).save(folder / "large.png")
    photo = Image.new("RGB", (300, 200), "#c08040")
    photo.save(folder / "photo.jpg")
    browser.get(address)
    until(browser, "document.body.dataset.shown")
    chooser = browser.find_element("id", "file")
    for name, told in (("notes.png", "no picture that this browser can open"),
                       ("large.png", "9000 × 8000 pixels")):  # fmt: skip
        chooser.send_keys(str(folder / name))
        until(browser, f"document.getElementById('error').textContent.includes('{told}')")
        assert browser.find_element("id", "error").is_displayed()
    before = shown(browser)
    chooser.send_keys(str(folder / "photo.jpg"))
    until(browser, "document.getElementById('error').hidden")
    middle = "[...document.getElementById('before').getContext('2d').getImageData(16,16,1,1).data]"
    assert until(browser, f"Math.abs({middle}[0] - 192) < 4 && Math.abs({middle}[2] - 64) < 4")
    set_slider(browser, "strength-0", 1.5)
    until(browser, "document.body.dataset.shown === '1.5 0'")
    assert abs(shown(browser) - before).max() > 2
    browser.execute_script(
        "fetch('samples/3.png').then((answer) => answer.blob()).then((blob) => {"
        "const held = new DataTransfer(); held.items.add(new File([blob], 'dropped.png'));"
        "dispatchEvent(new DragEvent('drop', { dataTransfer: held })) })"
    )
    sample = load_image(site / "samples/3.png")[:, 16, 16]
    red = round(float((sample[0] + 1) * 127.5))
    assert until(browser, f"Math.abs({middle}[0] - {red}) <= 1")


def check_blocked(browser: Any, address: str) -> None:
    browser.get(address + "blocked/")
    until(
        browser, "document.getElementById('error').textContent.includes('WebAssembly is blocked')"
    )


def check_without_graphics_card(
    browser: Any, address: str, site: Path, edits: tuple[Path, list[Path]]
) -> None:
    """Without a graphics card, or once it is lost, the processor edits, and the page says why."""
    first = expected(edits, site / "samples/1.png", [1.0, 0.0])
    editor = Editor.load(edits[1], edits[0])
    kept = values_of(editor.edit(torch.zeros(1, 8, 16), [1.0, 0.0])[0])
    for opened, picture, why in (
        ("", first, "as this browser finds no graphics card (WebGPU)."),
        ("?backend=webgpu", first, "as its graphics card failed: no available backend found."),
        ("lost/?backend=webgpu", kept, "as its graphics card failed: it was unplugged."),
    ):
        browser.get(address + opened)
        until(browser, "document.body.dataset.shown === '1 0'")
        assert browser.execute_script("return document.body.dataset.backend") == "wasm", opened
        assert why in browser.find_element("id", "backend").text
        assert abs(shown(browser) - picture).max() <= 1, opened
        set_slider(browser, "strength-0", 0.5)
        until(browser, "document.body.dataset.shown === '0.5 0'")
        assert not browser.find_element("id", "error").is_displayed()


def check_phone(browser: Any, address: str) -> None:
    """It fits a phone, and every control has a name and can be hit."""
    with as_phone(browser):
        browser.get(address)
        until(browser, "document.body.dataset.shown")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        controls = browser.find_elements("css selector", "input, button")
        assert len(controls) >= 10
        assert all(control.accessible_name for control in controls)
        small = [c.rect for c in controls if c.is_displayed() and c.rect["height"] < 24]
        assert [rect for rect in small if rect["width"] > 1] == []


def test_another_package_is_refused(
    tmp_path: Path, edits: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "package.tgz").write_bytes(b"not the package")
    out = tmp_path / "out"
    for source, told in (
        ("package.tgz", "its SHA-512 is another"),
        (".", "is not onnxruntime-web"),
    ):
        with pytest.raises(ValueError, match=told):
            browser_runtime.runtime_files(tmp_path / source)
    with pytest.raises(FileNotFoundError, match="there is no such package"):
        browser_runtime.runtime_files(tmp_path / "none.tgz")
    with pytest.raises(ConnectionError, match=r"cannot be downloaded .*npm pack"):
        export_web(edits[1], out, domain=edits[0], registry="http://127.0.0.1:9")
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_the_command_says_what_is_missing(
    edits: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sdd = Sdd(capsys)
    words = ["export", *edits[1], "--domain", edits[0], "--format", "web", "--out", tmp_path / "s"]
    lost = sdd.fails(*words, "--onnxruntime-web", tmp_path / "none.tgz")
    assert "none.tgz: there is no such package of onnxruntime-web" in lost
    assert "the whole editor" in sdd.fails(*words, "--levels", "fine", code=2)
    assert not list(tmp_path.iterdir())


def test_a_registry_of_ones_own_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64
    import hashlib
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (*browser_runtime._SCRIPTS, *browser_runtime._BINARIES):
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    package = tmp_path / "onnxruntime-web" / "-" / f"onnxruntime-web-{browser_runtime.VERSION}.tgz"
    package.parent.mkdir(parents=True)
    package.write_bytes(buffer.getvalue())
    digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    monkeypatch.setattr(browser_runtime, "INTEGRITY", digest)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registry = f"http://127.0.0.1:{server.server_port}/"
        first = browser_runtime.runtime_files(None, registry, told.append)
        server.shutdown()
    assert len(told) == 1 and "downloading onnxruntime-web" in told[0]
    assert browser_runtime.runtime_files(None, registry, told.append) == first and len(told) == 1
    assert first["ort.wasm.bundle.min.mjs"] == b"ort.wasm.bundle.min.mjs"
