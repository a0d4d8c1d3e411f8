"""Count code lines of Python files or directories, excluding docstrings, comments and blank lines.

python tools/count_code.py dnabert2_jax [--files]
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines with a token that is neither a comment nor part of a docstring (any string used as a statement)."""
    used = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            used -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(used)


def main() -> None:
    """Print the count for each directory below the given paths or, with ``--files``, for each file."""
    places = [Path(word) for word in sys.argv[1:] if word != "--files"]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    counts: Counter[str] = Counter()
    for file in files:
        counts[str(file if "--files" in sys.argv else file.parent)] += code_lines(file.read_text(encoding="utf-8"))
    for name, count in counts.items():
        print(f"{count:7,}  {name}")
    print(f"{sum(counts.values()):7,}  in {len(files)} files")


if __name__ == "__main__":
    main()
