"""The documentation: what the site is made by, and pages that could become untrue unnoticed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

pytest.importorskip("sphinx", reason="pip install 'sdd_fast[docs]'")

import api_reference  # noqa: E402
import check_site  # noqa: E402
import repository_links  # noqa: E402


def site(folder: Path, **pages: str) -> list[str]:
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return check_site.problems(folder)


def test_links_that_lead_somewhere_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = site(
        tmp_path,
        one='<h1 id="top">One</h1><a href="two.html#there">x</a><a href="#top">x</a>',
        two='<p id="there"><img src="a.png"><a href="https://example.org/x">x</a></p>',
    )
    assert found == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('<a href="gone.html">x</a>', "leads to gone.html, which is not there"),
        ('<a href="#gone">x</a>', "has no such place"),
        ('<img src="gone.png">', "gone.png, which is not there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "of another host"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "of another host"),
        ('<p style="background: url(https://example.org/x.png)">', "of another host"),
    ],
)
def test_dead_links_and_foreign_hosts_are_found(tmp_path: Path, body: str, told: str) -> None:
    (found,) = site(tmp_path, page=body)
    assert told in found


def test_a_style_sheet_that_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.css").write_text('@import "https://fonts.example.org/f.css";')
    (found,) = site(tmp_path, page="")
    assert "x.css loads https://fonts.example.org/f.css" in found


def test_an_empty_site_is_a_problem(tmp_path: Path) -> None:
    assert "make docs" in check_site.problems(tmp_path)[0]


def test_links_out_of_docs_lead_to_pages_of_the_site() -> None:
    page = DOCS / "method.md"
    text = "[a](../setup.py) [b](guide.md#x) `[c](../setup.py)`\n```text\n[d](../setup.py)\n```\n"
    assert repository_links.rewritten(text, page, page) == text.replace(
        "../setup.py", "generated/setup.py-.md", 2
    )
    assert repository_links.links_outside(text, page) == {ROOT / "setup.py"}


def test_a_page_from_outside_docs_keeps_its_links() -> None:
    source = ROOT / "CONTRIBUTING.md"
    text = "[a](docs/method.md) [b](LICENSE) [c](https://example.org/x)"
    shown = repository_links.rewritten(text, source, repository_links.page_of(source))
    assert shown == "[a](../method.md) [b](LICENSE-.md) [c](https://example.org/x)"


def test_every_page_is_in_the_menu() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^- \[[^]]+\]\(([^)]+)\)$", index, re.MULTILINE))
    pages = {path.name for path in [*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")]} - {"index.md"}
    assert pages <= listed
    assert all((DOCS / name).is_file() for name in listed)
    assert repository_links.menu(index).count("{toctree}") == 4


def test_docstrings_are_plain_text_but_for_names() -> None:
    written = "|d| of `a_ * b`, w_ and *args; a_b"
    assert api_reference.plain(written) == r"\|d\| of `a_ * b`, w\_ and \*args; a_b"


def test_the_api_pages_have_every_name_of_the_summary() -> None:
    summary = (DOCS / "api.md").read_text(encoding="utf-8")
    assert set(api_reference.KNOWN) == set(re.findall(r"^### `(\w+)`$", summary, re.MULTILINE))


def test_the_tutorial_is_committed_without_outputs() -> None:
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)


TROUBLE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    files = [ROOT / "setup.py", *sorted((ROOT / "sdd_fast").rglob("*.py"))]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts over several lines
    titles = "\n".join(re.findall(r"^### .*", TROUBLE, re.MULTILINE))
    messages = re.findall(r"`([^`]+)`", titles)
    assert len(messages) > 20
    parts = [part.strip() for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in code] == []


def test_options_of_troubleshooting_exist() -> None:
    from typer.main import get_command

    from sdd_fast.cli import app

    command = get_command(app)
    known = {option for parameter in command.params for option in parameter.opts}
    for sub in command.commands.values():  # type: ignore[attr-defined]
        of = [sub, *getattr(sub, "commands", {}).values()]
        for one in of:
            known |= {o for p in one.params for o in (*p.opts, *p.secondary_opts)}
    others = {"--force-reinstall", "--no-deps", "--no-build-isolation", "--directory"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TROUBLE)) - others
    assert named and named <= known


def test_the_gallery_mixes_edits_that_it_makes() -> None:
    import gallery

    from sdd_fast.domains.faces64.edits import EDITS

    named = {
        prompt for mixture in gallery.MIXTURES for _, some, _ in mixture.rows for prompt in some
    }
    assert named <= set(EDITS)


def test_the_gallery_shows_every_edit() -> None:
    from sdd_fast.domains.faces64.edits import EDITS

    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert re.findall(r"^### “(.+)”$", page, re.MULTILINE) == list(EDITS)
    assert all((DOCS / shown).is_file() for shown in re.findall(r"\]\((images/[^)]+)\)", page))
