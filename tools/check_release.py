"""Check that everything that names the version agrees, before a release.

    python tools/check_release.py [vX.Y.Z]

The version is in dnabert2_jax/version.py; CITATION.cff repeats it, and CHANGELOG.md has a section of it with a date. A tag
must be a "v" and the version.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def found(file: str, pattern: str, root: Path) -> str:
    """The first match of a pattern's group in a file, or what is missing."""
    match = re.search(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else "no version"


def disagreements(tag: str | None = None, root: Path = ROOT) -> list[str]:
    """What does not have the version of the package, one line each."""
    version = found("dnabert2_jax/version.py", r'^__version__ = "(.+)"$', root)
    others = {
        "CITATION.cff": found("CITATION.cff", r"^version: (\S+)$", root),
        "CHANGELOG.md, first dated section": found("CHANGELOG.md", r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", root),
    }
    if tag is not None:
        others["tag"] = tag.removeprefix("v") if tag.startswith("v") else f"{tag} (a tag begins with v)"
    return [f"{where}: {other}, but the package is {version}" for where, other in others.items() if other != version]


if __name__ == "__main__":
    problems = disagreements(*sys.argv[1:2])
    print("\n".join(problems) or "all agree")
    sys.exit(bool(problems))
