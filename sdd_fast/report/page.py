"""The frame of a report: one HTML file that needs nothing but itself, in light and in dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #22262b;
  --faint: #626a73; --line: #e2e4e1; --accent: #3b4cc0; --code: #f2f3f0;
  --good: #1a7f4b; --fair: #9a6a00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1d2024; --ink: #e6e7e8;
  --faint: #a0a7b0; --line: #33383e; --accent: #9aa7ff; --code: #262a2f;
  --good: #5ccb8f; --fair: #e0b252; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { margin-bottom: 1.5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; line-height: 1.3; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
article { border-top: 1px solid var(--line); margin-top: 3rem; }
article > h2 { font-size: 1.6rem; margin-top: 1.6rem; }
p { margin: .5rem 0; max-width: 46rem; }
.faint { color: var(--faint); font-size: .92rem; }
.eyebrow { color: var(--faint); font-size: .85rem; letter-spacing: .06em;
  text-transform: uppercase; margin: 0 0 .4rem; }
figure { margin: 1rem 0; }
figure .sheet { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: .5rem; overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--faint); font-size: .9rem; margin-top: .5rem; max-width: 46rem; }
.verdict { border: 1px solid var(--line); border-left: 6px solid var(--tone); border-radius: 8px;
  background: var(--card); padding: .8rem 1.1rem; margin: 1.1rem 0; }
.verdict b { color: var(--tone); }
.verdict p { margin: .2rem 0; max-width: none; }
.good { --tone: var(--good); } .fair { --tone: var(--fair); } .bad { --tone: var(--bad); }
.tone { color: var(--tone); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .5rem .8rem .5rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: .85rem; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
td:first-child { font-weight: 550; }
pre { background: var(--code); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
  font: .88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
ul { padding-left: 1.2rem; max-width: 46rem; } li { margin: .3rem 0; }
footer { margin-top: 3rem; color: var(--faint); font-size: .85rem; }
@media print { body { background: #fff; } details { display: block; } }
"""


def page(title: str, body: str) -> str:
    """A whole document around `body`."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def figure(path: Path, alt: str, caption: str = "") -> str:
    """A PNG, embedded, on white paper; "" if there is no such file. `caption` is HTML."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure><div class="sheet"><img alt="{escape(alt)}" '
        f'src="data:image/png;base64,{data}"></div>{below}</figure>\n'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of HTML cells; columns in `numbers` keep on one line."""
    out = ['<div class="scroll"><table><thead><tr>']
    out += [f"<th>{name}</th>" for name in head]
    out.append("</tr></thead><tbody>")
    for row in rows:
        cells = (
            f'<td class="number">{cell}</td>' if i in numbers else f"<td>{cell}</td>"
            for i, cell in enumerate(row)
        )
        out.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(out) + "</tbody></table></div>\n"


def code(text: str) -> str:
    return f"<pre>{escape(text.strip())}</pre>\n"


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def percent(value: float | None) -> str:
    """A share in per cent; "–" if it was not measured."""
    if value is None:
        return "–"
    digits = 1 if 0 < value < 0.1 or 0.9 < value < 0.9995 else 0
    return f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # no "−0.00"
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
