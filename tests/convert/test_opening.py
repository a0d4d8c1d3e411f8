"""A path to a model means the same everywhere: a model directory, an adapter, or a Hugging Face directory as it is."""

from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax import DNABERT2, UserError
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.convert.opening import files_read, open_adapter, open_model
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.storage.hashes import file_sha256
from tests.genome.helpers import write_fasta
from tests.helpers import finetune_run, tiny_model, tiny_task
from tests.recipes.helpers import tables


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """One model in both layouts, and a task."""
    path = tmp_path_factory.mktemp("opening")
    save_hugging_face(path / "hf", tiny_model(path / "base"))
    tiny_task(path)
    return path


def test_both_layouts_are_one_model(home):
    ours, theirs = open_model(home / "base"), open_model(home / "hf")
    assert tree_sha256(ours.params) == tree_sha256(theirs.params)
    assert theirs.path == home / "hf"
    assert files_read(theirs) == {"base/model.safetensors": file_sha256(home / "hf" / "model.safetensors")}
    assert files_read(ours) == {}


def test_python_and_commands_read_a_hugging_face_directory(home, dnabert2, tmp_path):
    sequences = {"a": "ACGTTGACAGT", "b": "TTGACCA"}
    expected = DNABERT2.load(home / "base").embed(list(sequences.values()))
    np.testing.assert_array_equal(DNABERT2.load(str(home / "hf")).embed(list(sequences.values())), expected)
    fasta, out = write_fasta(tmp_path / "x.fa", sequences), tmp_path / "e.npz"
    assert dnabert2("embed", "--model", home / "hf", "--data", fasta, "--out", out)[0] == 0
    with np.load(out) as file:
        np.testing.assert_array_equal(file["embeddings"], expected)
    assert dnabert2("fill-mask", "--model", home / "hf", "--out", tmp_path / "f.csv", "ACGT[MASK]GG")[0] == 0


@pytest.mark.usefixtures("promotion")
def test_fine_tuning_starts_from_a_hugging_face_directory_and_records_its_files(home, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
    run = finetune_run(home / "hf", tables(home), training={"method": "lora"})
    result = finetune(run, home / "lora")
    made = load_model(result.model).provenance
    assert made["parents"]["base/model.safetensors"] == file_sha256(home / "hf" / "model.safetensors")
    assert open_adapter(result.adapter).base.path == home / "hf"
    assert DNABERT2.load(result.adapter).kind == "classifier"  # its base is read from where it was
    assert open_adapter(result.adapter, home / "base").lora.rank == 2  # the same encoder in the other layout


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", r"hf holds no tokenizer\.json; copy the one"),
        ("model.safetensors", r"hf holds no weights; accepted are model\.safetensors, .*download one of them"),
    ],
)
def test_an_incomplete_download_is_told_what_it_lacks(home, tmp_path, file, message):
    save_hugging_face(tmp_path / "hf", load_model(home / "base"))
    (tmp_path / "hf" / file).unlink()
    with pytest.raises(UserError, match=message):
        open_model(tmp_path / "hf")


def test_what_is_not_a_model_names_the_remedy(home, tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"PEFT's format.*dnabert2 convert from-peft .*peft OUT --base MODEL"):
        open_model(tmp_path / "peft")
    ours = tiny_model(tmp_path / "model").path
    (ours / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"model is not the directory of a model .* it holds no manifest\.json"):
        open_model(ours)
