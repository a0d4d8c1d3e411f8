"""What version 0.1 wrote still opens and resumes; tools/make_compatibility_files.py says how the files were made."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.loading import load_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.training.workdir import MetricsLog, flat_settings

ARCHIVE = Path(__file__).parent / "v0_1.tar.gz"
RUNS: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "pretrain": (PretrainRun, pretrain),
    "full": (FinetuneRun, finetune),
    "lora": (FinetuneRun, finetune),
}

# The machine that wrote the files may have rounded differently.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Reports take seconds to draw."""
    monkeypatch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The archive unpacked, as the current directory: its runs name their inputs relative to it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def comparable(workdir: Path) -> list[tuple[int, dict[str, Any]]]:
    """Losses by step, which rounding moves little (it may change the class of a row); a step may have several lines."""
    names = ("loss", "gradient_norm", "learning_rate", "dev_loss")
    chosen = [
        (
            line["step"],
            {key: value for key, value in line.items() if key in names or key.startswith("validation_loss")},
        )
        for line in map(flat_settings, MetricsLog.read(workdir))
    ]
    return [(step, values) for step, values in chosen if values]


def assert_same_tensors(found: Path, expected: Path) -> None:
    tensors, wanted = load_file(found), load_file(expected)
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype
        np.testing.assert_allclose(tensors[name], tensor, **CLOSE, err_msg=name)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_and_ends_as_it_would_have(name, old, capfd):
    kind, call = RUNS[name]
    workdir, finished = old / "halfway" / name, old / "finished" / name
    call(load_run(kind, old / f"{name}.toml"), Path("halfway", name))

    stopped = {"pretrain": 8, "full": 12, "lora": 12}[name]
    assert f"from step {stopped} of " in capfd.readouterr().err
    found, expected = comparable(workdir), comparable(finished)
    assert [step for step, _ in found] == [step for step, _ in expected]
    for (step, values), (_, wanted) in zip(found, expected, strict=True):
        assert values == pytest.approx(wanted, rel=1e-3, abs=1e-4), step
    for directory in sorted(finished.glob("*/manifest.json")):
        for file in directory.parent.glob("*.safetensors"):
            assert_same_tensors(workdir / file.relative_to(finished), file)
    if name != "pretrain":
        scores, wanted = (json.loads((path / "scores.json").read_text()) for path in (workdir, finished))
        assert scores["test"].keys() == wanted["test"].keys()
        assert scores["test"]["loss"] == pytest.approx(wanted["test"]["loss"], rel=1e-3)
        assert scores["best_step"] == wanted["best_step"]


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_is_recognised_and_not_trained_again(name, old):
    kind, _ = RUNS[name]
    effective = run_to_dict(load_run(kind, old / f"{name}.toml"))
    saved = json.loads((old / "finished" / name / "run.json").read_text())
    later = {  # settings that did not exist then
        *("training.skipped_in_a_row", "training.hang_timeout", "training.pooling", "training.focal_gamma"),
        *("data.sequence_column", "data.label_column", "data.bad_records", "data.bpe_dropout"),
        "mesh.sequence",
    }
    new = later - flat_settings(saved).keys()
    assert {k: v for k, v in flat_settings(effective).items() if k not in new} == flat_settings(saved)


def test_directories_open(old):
    corpus = Corpus.open("corpus")
    assert [species.name for species in corpus.species] == ["first", "second"]
    assert Tokenizer.load("bpe").vocab_size == 64
    assert Tokenizer.load("kmer").decode([*Tokenizer.load("kmer").encode("ACGTTGCA")]) == "ACGTTGCA"
    assert load_model("base").kind == "masked_lm"
    for name, kind in (("pretrain", "masked_lm"), ("full", "classifier"), ("lora", "classifier")):
        model = load_model(Path("finished", name, "model"))
        assert (model.kind, model.tokenizer.sha256) == (kind, Tokenizer.load("bpe").sha256)
    adapter = load_adapter("finished/lora/adapter")
    assert (adapter.labels, adapter.lora.rank, adapter.base.path) == (("plain", "rich"), 2, old / "base")
