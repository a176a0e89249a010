"""Writes docs/images/app.png, the page of `sdd app` as the guide shows it; needs chromium.

python tools/app_screenshot.py RUN...

The guide's picture is of two of the domain's own prompts, "a face with white hair" and "a surprised
face", such as `sdd demo` trains them.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
OUT = ROOT / "docs" / "images" / "app.png"
SAMPLE = 2  # of the six, from 1


def main(runs: list[str]) -> None:
    from chromium import chromium, until

    from sdd_fast.app.launch import open_studio, serving

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(open_studio(runs), port=port) as address,
        chromium(Path(folder)) as browser,
    ):
        browser.set_window_size(1060, 1080)
        browser.get(address)
        told = "document.querySelector('#told p')?.textContent"
        until(browser, f"{told}?.includes('ms')")
        first = browser.execute_script("return document.querySelectorAll('#pictures img')[1].src")
        sample = f"#samples .gallery-item:nth-of-type({SAMPLE}) button"
        browser.find_element("css selector", sample).click()
        shown = "document.querySelectorAll('#pictures img')[1]"
        until(browser, f"{shown}.src !== '{first}' && {shown}.complete")
        browser.get_screenshot_as_file(f"{folder}/app.png")
        with Image.open(f"{folder}/app.png") as picture:
            few = picture.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
            # Dithered, which this palette is asked for once more: else the faces have steps.
            picture.convert("RGB").quantize(palette=few).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
