"""The order of packages in pyproject.toml is kept, and a forbidden import would be noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The package and its contracts, to be broken."""
    shutil.copytree(ROOT / "dnabert2_jax", tmp_path / "dnabert2_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter is one of the development tools: make dev")
    code = f"import sys; sys.path.insert(0, {str(directory)!r}); from importlinter.cli import lint_imports_command as c; c()"
    return subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=directory, capture_output=True, text=True)


def test_packages_import_downwards_only(copy):
    check = lint(copy)
    assert check.returncode == 0, check.stdout
    assert "1 kept, 0 broken" in check.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training/step.py", "import dnabert2_jax.reports.plots"),
        ("config/runs.py", "from dnabert2_jax.training import step"),
        ("genome/letters.py", "import dnabert2_jax.tokenizer.special"),
        ("inference/output.py", "import dnabert2_jax.training.step"),
    ],
)
def test_a_forbidden_import_is_refused(copy, module, line):
    with (copy / "dnabert2_jax" / module).open("a") as file:
        file.write(f"\n{line}\n")
    check = lint(copy)
    assert check.returncode == 1
    assert "0 kept, 1 broken" in check.stdout


def test_a_package_without_a_layer_is_refused(copy):
    (copy / "dnabert2_jax" / "somewhere.py").write_text('"""A module that no layer names."""\n')
    check = lint(copy)
    assert check.returncode == 1
    assert "somewhere" in check.stdout
