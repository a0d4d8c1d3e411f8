"""The pieces of a self-contained HTML page: no script, no font, no picture and no style from anywhere else."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dnabert2_jax.storage.atomic import write_bytes

_STYLE = """
:root { color-scheme: light dark; --ground: #f4f5f7; --card: #ffffff; --ink: #1f2328; --muted: #5b6470; --line: #dde1e6;
  --accent: #00588c; --note: #fff6e0; --note-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1013; --card: #16191d; --ink: #e3e7ec; --muted: #a0a9b4;
  --line: #2c3138; --accent: #7cc4f0; --note: #2b2410; --note-line: #c79a2b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: 0 0 .75rem; } .muted { color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .75rem 0 0; } a { color: var(--accent); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem; margin-top: 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin-top: 1rem; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem .9rem; }
.figures b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures span { color: var(--muted); font-size: .85rem; }
.note { background: var(--note); border-left: 4px solid var(--note-line); border-radius: 4px; padding: .6rem .9rem;
  margin: .75rem 0 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--muted); font-weight: 500; } td.number, th.number { text-align: right; }
td.number { white-space: nowrap; } th { vertical-align: bottom; }
table.settings td { overflow-wrap: anywhere; } table.settings { width: 100%; }
table.settings th { width: 1%; white-space: nowrap; }
.wide td:first-child { min-width: 6.5rem; }
@media (max-width: 30rem) { section { padding: .9rem; } th, td { padding-right: .6rem; } table { font-size: .85rem; } }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.25rem;
  align-items: start; }
figure { margin: 0; max-width: 34rem; } figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--muted); font-size: .9rem; margin-top: .35rem; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .8rem; margin: 0 0 .9rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem; }
@media print { section, .figures div { break-inside: avoid; } body { background: none; } }
"""


@dataclass(frozen=True)
class Section:
    """A titled part of the page.

    Attributes:
        anchor: its id, for links.
        title: heading, plain text.
        body: HTML.
    """

    anchor: str
    title: str
    body: str


def page(
    title: str,
    subtitle: str,
    sections: Iterable[Section],
    figures: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The whole document.

    Args:
        title: plain text.
        subtitle: plain text.
        sections: in order.
        figures: (value, what it is) of the few numbers that matter most, plain text.
        notes: what a reader must know before trusting them, plain text.
    """
    sections = list(sections)
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    cards = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in figures)
    body = "".join(f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{s.body}</section>\n' for s in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="muted">{escape(subtitle)}</p>\n<nav>{links}</nav>\n'
        + (f'<div class="figures">{cards}</div>\n' if figures else "")
        + "".join(f'<p class="note">{escape(note)}</p>\n' for note in notes)
        + f"{body}</main>\n</body>\n</html>\n"
    )


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table; columns after the first ``text_columns`` hold numbers. Cells are plain text."""

    def cells(tag: str, values: Sequence[str]) -> str:
        kinds = ["" if n < text_columns else ' class="number"' for n in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", header)}</tr></thead><tbody>{body}</tbody></table></div>'


def settings(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, plain text."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in pairs)
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def picture(light: bytes, dark: bytes, caption: str) -> str:
    """One picture in two PNG versions, of which the reader's colour scheme chooses."""
    light_url, dark_url = (f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}" for data in (light, dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark_url}">'
        f'<img src="{light_url}" alt="{escape(caption)}"></picture><figcaption>{escape(caption)}</figcaption></figure>'
    )


def command(explanation: str, line: str) -> str:
    """A command to copy, and what it is for."""
    return f"<p>{escape(explanation)}</p><pre>{escape(line)}</pre>"


def write_page(file: Path, document: str) -> Path:
    """Write a page, whole or not at all; returns ``file``.

    Raises:
        UserError: there is no room, or the place cannot be written to.
    """
    return write_bytes(file, document.encode())
