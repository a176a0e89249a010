"""The API pages of the site: whole docstrings, for the names that tools/api_page.py lists.

docs/api.md is the summary that GitHub shows. On the site it is a table of contents, and each of its
groups is a page by autodoc. Both are made of the same lists, so that neither can lack a name.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import api_page
from docutils import nodes
from repository_links import GENERATED, write
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import sdd_fast as sdd

FOLDER = GENERATED / "api"
HEAD = """# API

`import sdd_fast as sdd`. Modules that are not named here, in the guide or in the examples may
change. A private name, one that begins with `_`, may change at any time.
"""


def groups() -> dict[str, tuple[str, Any, list[str]]]:
    """Title of a page → the module that its names are documented in, that module, the names."""
    pages = {title: ("sdd_fast", sdd, names) for title, names in api_page.GROUPS.items()}
    pages["Metrics"] = ("sdd_fast.metrics", sdd.metrics, api_page.METRICS)
    pages["Ops"] = ("sdd_fast.ops", sdd.ops, list(sdd.ops.__all__))
    return pages


KNOWN = {name: f"{module}.{name}" for module, _, names in groups().values() for name in names}


def file_name(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())


def entry(module: str, name: str, thing: Any) -> str:
    if inspect.isclass(thing):
        foreign = [base.__name__ for base in thing.__mro__ if not _is_ours(base)]
        options = "   :members:\n"
        if any(_is_ours(base) for base in thing.__mro__[1:]):
            options += f"   :inherited-members: {', '.join(foreign)}\n"
        return f".. autoclass:: {module}.{name}\n{options}"
    return f".. autofunction:: {module}.{name}\n"


def _is_ours(base: type) -> bool:
    return base.__module__.partition(".")[0] == "sdd_fast"


def make_pages(app: Sphinx) -> None:
    for title, (module, where, names) in groups().items():
        body = "\n".join(entry(module, name, getattr(where, name)) for name in names)
        text = f"# {title}\n\n```{{eval-rst}}\n.. currentmodule:: {module}\n\n{body}```\n"
        write(FOLDER / f"{file_name(title)}.md", text)


def contents() -> str:
    lines = [HEAD]
    for title, (module, where, names) in groups().items():
        lines += [f"## [{title}](generated/api/{file_name(title)}.md)", "", "| | |", "|---|---|"]
        for name in names:
            summary = api_page.summary(getattr(where, name)).replace("|", "\\|")
            lines.append(f"| {{py:obj}}`{name} <{module}.{name}>` | {summary} |")
        lines.append("")
    pages = "\n".join(f"generated/api/{file_name(title)}" for title in groups())
    return "\n".join([*lines, f"```{{toctree}}\n:hidden:\n\n{pages}\n```\n"])


def read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    if docname == "api":
        content[0] = contents()


MARKUP = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
SPECIAL = re.compile(r"\*|\||(?<=\w)_(?=\W|$)")


def plain(text: str) -> str:
    """Docstrings are plain text with names in single backticks: the rest is no markup."""
    parts, end = [], 0
    for match in MARKUP.finditer(text):
        parts += [SPECIAL.sub(r"\\\g<0>", text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, SPECIAL.sub(r"\\\g<0>", text[end:])])


def escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain("\n".join(lines)).split("\n")


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what a named tuple says of its fields, "Alias for field number 0"."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Lead `hqs` and `HQSCurve.select` in a docstring to where the public name is documented."""
    first, _, rest = node.get("reftarget", "").partition("(")[0].strip("`").partition(".")
    if node.get("refdomain") != "py" or first not in KNOWN:
        return None
    target = KNOWN[first] + (f".{rest}" if rest else "")
    domain = env.domains.python_domain
    found = domain.find_obj(env, "", "", target, None, 0)
    if not found:
        return None
    docname, node_id = found[0][1].docname, found[0][1].node_id
    return make_refnode(app.builder, node["refdoc"], docname, node_id, content, target)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", make_pages)
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", escape)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
