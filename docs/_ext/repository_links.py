"""Pages for what the documentation links to outside docs/, and the menu of the site.

Links such as `../sdd_fast/selection/hqs.py` work on GitHub as they stand. On the site they lead to
pages made here, in docs/generated/: a Markdown file becomes a page, a source file its listing, a
folder the list of its files. The menu is made of the lists of links in index.md.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
LINK = re.compile(r"(?<=\]\()(?P<path>[^()\s#:]+)(?P<anchor>#[^()\s]+)?(?=\))")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LANGUAGES = {
    ".py": "python", ".json": "json", ".cpp": "cpp", ".h": "cpp", ".cu": "cuda", ".txt": "cmake",
    ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".cff": "yaml",
}  # fmt: skip


def outside(page: Path, link: str) -> Path | None:
    """The file or folder of the repository that a link of a page leads to; None inside docs/."""
    target = Path(os.path.normpath(page.parent / link))
    if not target.is_relative_to(ROOT) or target.is_relative_to(DOCS) or not target.exists():
        return None
    return target


def page_of(target: Path) -> Path:
    """The page of the site that stands for a file or folder of the repository."""
    relative = target.relative_to(ROOT)
    name = relative.stem if relative.suffix == ".md" else f"{relative.name}-"  # a.py is not a.md
    return GENERATED / relative.parent / f"{name}.md"


def rewritten(text: str, source: Path, shown_at: Path) -> str:
    """The Markdown of `source` with its links changed to those of the page `shown_at`."""

    def change(match: re.Match[str]) -> str:
        link, anchor = match["path"], match["anchor"] or ""
        target = outside(source, link)
        if target is not None:
            target = page_of(target)
        elif source.is_relative_to(DOCS) and source == shown_at:
            return match[0]
        else:
            target = Path(os.path.normpath(source.parent / link))
        return os.path.relpath(target, shown_at.parent).replace(os.sep, "/") + anchor

    parts, end = [], 0
    for fence in FENCE.finditer(text):  # in a listing nothing is a link
        parts += [LINK.sub(change, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(change, text[end:])])


def links_outside(text: str, page: Path) -> set[Path]:
    found = (outside(page, match["path"]) for match in LINK.finditer(FENCE.sub("", text)))
    return {target for target in found if target is not None}


def listing(target: Path, pages: set[Path]) -> str:
    """The page of a source file or of a folder."""
    name = target.relative_to(ROOT).as_posix()
    head = f"---\norphan: true\n---\n# `{name}`\n\n"
    if target.is_dir():
        files = sorted(p for p in target.iterdir() if p.suffix in LANGUAGES or p.suffix == ".md")
        here = page_of(target).parent
        lines = [
            f"- [{p.name}]({os.path.relpath(page_of(p), here)})" if p in pages else f"- {p.name}"
            for p in files
        ]
        return head + "\n".join(lines) + "\n"
    relative = os.path.relpath(target, page_of(target).parent).replace(os.sep, "/")
    language = LANGUAGES.get(target.suffix, "text")
    return f"{head}```{{literalinclude}} {relative}\n:language: {language}\n```\n"


def write(path: Path, text: str) -> None:
    """Write a page if it is not there like that: Sphinx reads again what has a new date."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def make_pages(app: Sphinx) -> None:
    """Write the pages of what is linked to, and of what those pages link to."""
    reading = [p for p in DOCS.rglob("*.md") if not p.is_relative_to(GENERATED)]
    targets: set[Path] = set()
    while reading:
        page = reading.pop()
        for target in links_outside(page.read_text(encoding="utf-8"), page) - targets:
            targets.add(target)
            if target.suffix == ".md":
                reading.append(target)
    wanted = {page_of(target) for target in targets}
    for old in GENERATED.rglob("*.md") if GENERATED.is_dir() else ():
        if old not in wanted and "api" not in old.relative_to(GENERATED).parts[:1]:
            old.unlink()
    for target in targets:
        page = page_of(target)
        if target.suffix == ".md":
            text = rewritten(target.read_text(encoding="utf-8"), target, page)
            write(page, text if "\n---\n" in text[:200] else f"---\norphan: true\n---\n{text}")
        else:
            write(page, listing(target, targets))


def menu(text: str) -> str:
    """The hidden tables of contents that the sections of links in index.md stand for."""
    trees = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        caption, _, rest = section.partition("\n")
        pages = re.findall(r"^- \[([^]]+)\]\(([^)\s#]+)\.(?:md|ipynb)\)", rest, re.MULTILINE)
        if pages:
            listed = "\n".join(f"{title} <{page}>" for title, page in pages)
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n")
    return "\n" + "\n".join(trees)


def read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    if page.is_relative_to(GENERATED) or not page.is_file():
        return
    content[0] = rewritten(content[0], page, page)
    if docname == "index":
        content[0] += menu(content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", make_pages)
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True}
