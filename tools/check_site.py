"""Checks the pages of the built documentation: `make docs`.

Every link within the site leads to a page, and to a heading or name in it; every picture, script
and style sheet is in the site. Nothing is loaded from another host.

    python tools/check_site.py build/site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "modulepreload"}
IN_STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """The links of a page, what it loads, and the places that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attributes}
        self.places |= {of[name] for name in ("id", "name") if name in of}
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        elif tag == "link" and set(of.get("rel", "").split()) & LOADED_LINKS:
            self.loads.append(of.get("href", ""))
        elif tag in LOADS and LOADS[tag] in of:
            self.loads.append(of[LOADS[tag]])
        if "style" in of:
            self.loads += IN_STYLES.findall(of["style"])


def problems(site: Path) -> list[str]:
    """What is wrong with the site, a line each."""
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")
    }
    if not pages:
        return [f"{site} holds no pages: run make docs"]
    found = []
    for path, page in sorted(pages.items()):
        name = path.relative_to(site.resolve()).as_posix()
        for target in [*page.links, *page.loads]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loads and parts.scheme != "data":
                    found.append(f"{name} loads {target}, of another host")
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                found.append(f"{name} leads to {target}, which is not there")
            elif parts.fragment and file in pages:
                place = unquote(parts.fragment)
                if place not in pages[file].places:
                    found.append(f"{name} leads to {target}: the page has no such place")
    for path in sorted(site.rglob("*.css")):
        for target in IN_STYLES.findall(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(site)} loads {target}, of another host")
    return found


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/check_site.py FOLDER")
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or "every link of the site leads somewhere, and it loads nothing else")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
