"""The scripts in benchmarks/: `make check` checks their types; here they start."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(
    path.name
    for path in BENCHMARKS.glob("*.py")
    if "ArgumentParser(description=__doc__" in path.read_text() and "__main__" in path.read_text()
)


def test_there_are_scripts() -> None:
    assert "pretraining.py" in SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_starts_and_says_what_it_measures(name: str) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}" in done.stdout
