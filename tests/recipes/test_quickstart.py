"""The quickstart, shrunken: a tiny encoder, a few steps, and the first rows of each table."""

import json
from pathlib import Path

import pytest

from dnabert2_jax import sample_data
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.recipes import quickstart as module
from dnabert2_jax.recipes.quickstart import quickstart
from tests.helpers import tiny_config, with_sections, write_table

SHORTER = {
    "pretrain": {"training": {"steps": 12, "evaluate_every": 12, "save_every": 12, "log_every": 4}},
    "finetune": {"training": {"epochs": 1, "padded_lengths": 1}},
}


pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Shrinks what the quickstart does, not how; restored when the module is through."""
    tables = {
        split: write_table(
            tmp_path_factory.mktemp("tables") / f"{split}.csv",
            list(zip(table.sequences[:rows], table.labels[:rows], strict=True)),
        )
        for split, rows in (("train", 96), ("dev", 48), ("test", 48))
        for table in [read_table(sample_data.table(split))]
    }

    def shorter(kind, content, source):
        command = kind.__dataclass_fields__["command"].default
        return parse_run(kind, with_sections(content, SHORTER[command]), source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.config.model.NAMED_SIZES", {"tiny": tiny_config()})
        patch.setattr(module, "SIZE", "tiny")
        patch.setattr(module, "VOCAB_SIZE", 64)
        patch.setattr(module, "parse_run", shorter)
        patch.setattr(sample_data, "table", tables.__getitem__)
        yield


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    quickstart(workdir)
    return workdir


def test_the_results_have_the_four_rows_with_intervals_and_a_picture(finished):
    rows = json.loads((finished / "results.json").read_text())
    assert [row["model"] for row in rows] == [
        "(a) 1-5-mer regression",
        "(b) encoder from scratch",
        "(c) pretrained here",
        "(d) small_5mer",
    ]
    for row in rows:
        assert set(row) == {"model", "mcc", "mcc_interval", "macro_f1", "accuracy", "trained_parameters", "seconds"}
        low, high = row["mcc_interval"]
        assert -1 <= low <= row["mcc"] <= high <= 1
        assert 0 < row["accuracy"] <= 1
        assert row["seconds"] > 0
    _, scratch, here, shipped = (row["trained_parameters"] for row in rows)
    assert 0 < scratch == here < shipped
    assert (finished / "results.png").read_bytes().startswith(b"\x89PNG")


def test_everything_that_it_made_can_be_used(finished):
    pretrained = load_model(finished / "pretrain" / "model")
    assert pretrained.kind == "masked_lm"
    for run in ("scratch", "full", "shipped_full"):
        assert load_model(finished / run / "model").labels == ("coding+", "coding-", "intergenic")
    assert pretrained.config == load_model(finished / "full" / "model").config


@pytest.mark.slow
def test_started_again_it_goes_on_and_ends_with_the_same_table(finished, capsys):
    before = json.loads((finished / "results.json").read_text())
    quickstart(finished)
    out, errors = capsys.readouterr()
    assert out.splitlines()[-1] == f"saved {finished / 'results.json'}"
    assert "resuming from step 12 of 12" in errors
    after = json.loads((finished / "results.json").read_text())
    for row, again in zip(before, after, strict=True):
        assert {**row, "seconds": 0} == {**again, "seconds": 0}
        line = next(line for line in out.splitlines() if row["model"] in line)
        assert f"{row['mcc']:.3f}" in line
        assert f"{row['trained_parameters']:,}" in line


def test_a_directory_that_cannot_be_made_is_a_users_error(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --workdir"):
        quickstart(tmp_path / "file" / "run")
