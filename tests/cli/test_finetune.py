import json

import jax
import pytest

from dnabert2_jax import DNABERT2, FinetuneRun, UserError, finetune, load_run
from tests.helpers import finetune_content, tiny_model, tiny_rows, write_run, write_table


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """The file of a probe on tables with other columns and labels; it takes a second, because no report is drawn."""
    monkeypatch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
    tiny_model(tmp_path / "base")
    tables = {}
    for seed, split in enumerate(("train", "dev", "test")):
        rows = [(sequence, str(int(label == "rich"))) for sequence, label in tiny_rows(24, seed)]
        tables[split] = str(write_table(tmp_path / f"{split}.csv", rows, "insert,kind"))
    content = finetune_content(tmp_path / "base", tables, training={"method": "probe"})
    return write_run(tmp_path / "run.toml", "finetune", content)


def test_columns_labels_and_what_the_model_remembers(dnabert2, probe, tmp_path):
    code, _, errors = dnabert2(
        *("finetune", "--config", probe, "--workdir", tmp_path / "run", "--sequence-column", "insert"),
        *("--label-column", "kind", "--set", 'data.label_map={0="plain",1="rich"}'),
    )
    assert code == 0, errors
    model = DNABERT2.load(str(tmp_path / "run" / "model"))
    assert model.labels == ("plain", "rich")
    bases = [len(sequence) for sequence, _ in tiny_rows(24, 0)]
    provenance = json.loads((tmp_path / "run" / "model" / "provenance.json").read_text())
    assert provenance["training_data"] == {"shortest": min(bases), "longest": max(bases), "pairs": False}
    assert model.predict(["ACGT" * 20])[0]["note"] == "longer_than_training"
    with pytest.raises(UserError, match="trained on single sequences"):
        model.predict(["ACGT" * 10], ["ACGT" * 10])


def test_training_from_python_with_paths_as_strings(probe, tmp_path):
    run = load_run(FinetuneRun, str(probe), ["data.sequence_column=insert", "data.label_column=kind"])
    assert DNABERT2.load(finetune(run, str(tmp_path / "run")).model).labels == ("0", "1")
