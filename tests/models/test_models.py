from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.convert.opening import open_any, open_model
from dnabert2_jax.models import SHIPPED, shipped_model
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.tokenizer.loading import Tokenizer
from tests.helpers import finetune_run, tiny_model, tiny_task
from tests.processes import run_cli
from tests.recipes.helpers import tables

LARGEST = 8_000_000
"""Bytes of all shipped models together: the wheel must stay small."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_sealed_has_a_card_and_is_named_by_its_name(name):
    directory = shipped_model(name)
    assert load_model(directory).kind == "masked_lm"
    model = DNABERT2.load(name)
    assert name in repr(model)
    assert np.isfinite(model.embed(["ACGTTTGACA"])).all()
    assert Tokenizer.load(name).sha256 == model.tokenizer.sha256
    card = (directory / "README.md").read_text()
    for part in ("## Data", "## Training", "## Scores", "## What it is not good for"):
        assert part in card


def test_they_are_small():
    files = [file for name in SHIPPED for file in shipped_model(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < LARGEST


def test_what_exists_under_the_name_comes_first(tmp_path):
    tiny_model(tmp_path / "small")
    assert shipped_model("small") is None
    assert open_model("small").path == tmp_path / "small"


def test_an_adapter_on_a_shipped_model_finds_it_by_its_name(tmp_path):
    """Its directory is another one on every machine."""
    tiny_task(tmp_path)
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):  # optax relies on the latter
        patch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
        run = finetune_run(Path("small"), tables(tmp_path), training={"method": "lora", "max_steps": 2})
        adapter = finetune(run, tmp_path / "run").adapter
    assert '"base_absolute_path": "small"' in (adapter / "adapter.json").read_text()
    assert open_any(adapter).base.path == Path("small")


def test_the_command_line_takes_the_name(tmp_path):
    Path("reads.csv").write_text("sequence\nACGTTTGACACCCA\n")
    embedded = run_cli("embed", "--model", "small", "--data", "reads.csv", "--out", "vectors.npz")
    assert embedded.returncode == 0, embedded.stderr
    checked = run_cli("doctor", "--model", "small")
    assert checked.returncode == 0, checked.stderr
    assert "every file matches its hash" in checked.stdout
