"""The notebooks of the documentation run as they stand, on what ships with the package."""

import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.py"))
SECONDS = 300
"""For a cell, at most; on two cores without other work, all notebooks together take less."""


def test_the_index_lists_every_notebook():
    index = (NOTEBOOKS[0].parents[1] / "index.md").read_text()
    assert all(f"\nnotebooks/{path.stem}\n" in index for path in NOTEBOOKS)


@pytest.mark.slow  # trains, and compiles as a new process does
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    import jupytext
    from nbclient import NotebookClient

    # its cells call the command, which is beside this interpreter, and import the package, which may be this checkout
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) or "text/html" in output.get("data", {}) for output in shown)
