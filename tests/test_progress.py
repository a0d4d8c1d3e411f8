import os
import subprocess
import sys

from dnabert2_jax import progress

PROGRAM = """
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.progress import ProgressBar

with ProgressBar("scoring", 3) as bar:
    for _ in range(3):
        bar.advance()
print_table([{"name": "n" * 60, "value": "v" * 60}])
"""


def test_a_file_gets_lines_even_where_colors_are_forced():
    """Jupyter and CI services set FORCE_COLOR for what runs in them."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "FORCE_COLOR": "1"}, capture_output=True, text=True, check=True
    )
    assert run.stderr == "scoring  3/3\n"
    assert "\x1b" not in run.stdout
    assert "n" * 60 in run.stdout  # and it is as wide as it has to be


def test_a_line_is_not_repeated_when_the_work_ends(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress.ProgressBar("scoring", 2) as bar:
        bar.advance(figures="one")
        bar.advance(figures="two")
    assert capsys.readouterr().err == "scoring  1/2  one\nscoring  2/2  two\n"
