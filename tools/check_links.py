"""Find dead links in the Markdown files: to files, to headings and, with --external, to other sites.

    python tools/check_links.py [--external]

A path in backquotes that starts with one of the repository's directories (`configs/finetune.toml`) also counts as a link.
"""

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY_PATH = re.compile(r"(benchmarks|configs|dnabert2_jax|docs|launch|tests|tools)/[\w./-]*")


def markdown_files() -> list[Path]:
    """The user-facing Markdown files, at the top level and in docs/ and the package."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "dnabert2_jax").rglob("*.md")])


def walk(tokens: list[Token]) -> Iterator[Token]:
    """All tokens of a document, including nested ones."""
    for token in tokens:
        yield token
        yield from walk(token.children or [])


@cache
def parsed(path: Path) -> list[Token]:
    """The tokens of a Markdown file."""
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors that a site generates for the headings of a Markdown file."""
    titles = [inline.content for heading, inline in pairwise(parsed(path)) if heading.type == "heading_open"]
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


def is_missing_path(code: str) -> bool:
    """Whether this looks like a path in the repository that does not exist."""
    return bool(REPOSITORY_PATH.fullmatch(code)) and not (ROOT / code).exists()


def dead_links(path: Path) -> Iterator[str]:
    """Problems with a file's links within the repository."""
    for token in walk(parsed(path)):
        if token.type in ("link_open", "image"):
            target = str(token.attrGet("href") or token.attrGet("src"))
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = unquote(target).partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists():
                yield f"{target}: no such file"
            elif anchor and anchor not in anchors(file):
                yield f"{target}: no such heading; there are {', '.join(sorted(anchors(file)))}"
        elif token.type == "code_inline" and is_missing_path(token.content):
            yield f"`{token.content}`: no such file"


def external_links(path: Path) -> set[str]:
    """Addresses of other sites that a file links to."""
    links = (str(token.attrGet("href")) for token in walk(parsed(path)) if token.type == "link_open")
    return {link for link in links if link.startswith(("http:", "https:"))}


def unreachable(address: str) -> str | None:
    """The reason an address cannot be opened, or None."""
    request = urllib.request.Request(address, headers={"User-Agent": "link check"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return None
    except (urllib.error.URLError, TimeoutError) as error:
        return str(error)


def main() -> int:
    """Print every dead link; returns 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--external", action="store_true", help="also open links to other sites")
    arguments = parser.parse_args()
    files = markdown_files()
    dead = [f"{path.relative_to(ROOT)}: {problem}" for path in files for problem in dead_links(path)]
    if arguments.external:
        for address in sorted({address for path in files for address in external_links(path)}):
            if problem := unreachable(address):
                dead.append(f"{address}: {problem}")
    print("\n".join(dead) or f"no dead links in {len(files)} Markdown files")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
