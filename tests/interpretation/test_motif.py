"""A motif that decides the class is found: by mutagenesis to the base, by gradients to the token, and by TF-MoDISco."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ig import integrated_gradients
from dnabert2_jax.interpretation.ism import MutationScores, ism
from dnabert2_jax.interpretation.modisco import save_modisco
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.reports.explanation import strongest_stretches
from tests.helpers import finetune_content, tiny_model, write_table

pytestmark = pytest.mark.slow

MOTIF = "TGACTCAG"
BASES = 48


def rows(count: int, seed: int) -> list[tuple[str, str, int]]:
    """(sequence, label, where the motif is): a random sequence with the motif, or with its letters in another order."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(count):
        letters = "".join(rng.choice(list("ACGT"), BASES))
        at = int(rng.integers(BASES - len(MOTIF)))
        word = MOTIF if n % 2 else "".join(rng.permutation(list(MOTIF)))
        found.append((letters[:at] + word + letters[at + len(MOTIF) :], ("no", "motif")[n % 2], at))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> InferenceModel:
    """A tiny encoder, trained from random weights to tell sequences with the motif from those without."""
    path: Path = tmp_path_factory.mktemp("motif")
    tiny_model(path / "base", seed=1)
    tables = {
        split: str(write_table(path / f"{split}.csv", [row[:2] for row in rows(count, seed)]))
        for seed, (split, count) in enumerate({"train": 4000, "dev": 100, "test": 100}.items())
    }
    training = {"epochs": 3, "batch_size": 32, "padded_lengths": 1}
    content = finetune_content(path / "base", tables, training=training, optimizer={"learning_rate": 2e-3})
    del content["lora"]  # all weights
    run = parse_run(FinetuneRun, content, "test")
    with jax.numpy_dtype_promotion("standard"):  # on which Optax relies
        return InferenceModel.load(finetune(run, path / "run").model, Compute())


@pytest.fixture(scope="module")
def held_out() -> list[tuple[str, str, int]]:
    return [row for row in rows(600, 9) if row[1] == "motif"]


@pytest.fixture(scope="module")
def mutated(trained, held_out) -> list[MutationScores]:
    return ism(trained, given_sequences([row[0] for row in held_out]), "motif")


def share_inside(results: Sequence[MutationScores] | Sequence[Attributions], held_out: list[tuple[str, str, int]]) -> float:
    """The part of all contributions, without their signs, that the motif has; the mean over sequences."""
    shares = []
    for result, (_, _, at) in zip(results, held_out, strict=True):
        size = np.abs(result.contributions)
        shares.append(size[at : at + len(MOTIF)].sum() / size.sum())
    return float(np.mean(shares))


def test_the_motif_decides(trained, held_out):
    labels = predict(trained, given_sequences([row[0] for row in held_out])).labels
    assert np.mean([label == "motif" for label in labels]) > 0.95


def test_mutagenesis_finds_the_motif_to_the_base(mutated, held_out):
    assert share_inside(mutated, held_out) > 0.8  # by chance 1/6
    strongest = [strongest_stretches(result.contributions)[0][0] for result in mutated]
    assert np.mean([start == at for start, (_, _, at) in zip(strongest, held_out, strict=True)]) > 0.8


def test_integrated_gradients_find_the_motif_to_the_token(trained, held_out):
    results = integrated_gradients(trained, given_sequences([row[0] for row in held_out[:50]]), "motif")
    assert share_inside(results, held_out[:50]) > 0.6
    assert np.median([result.completeness_error for result in results]) < 0.01


def test_modisco_finds_the_motif(mutated, tmp_path):
    if not (modisco := os.environ.get("DNABERT2_MODISCO")):
        pytest.skip("no TF-MoDISco to read the files; set DNABERT2_MODISCO to its command (pip install modisco-lite)")
    save_modisco(tmp_path / "input", mutated)
    files = ["-s", str(tmp_path / "input" / "ohe.npz"), "-a", str(tmp_path / "input" / "shap.npz")]
    sizes = ["-n", "2000", "-w", str(BASES), "-z", "10", "-t", "10", "-f", "3", "-g", "3"]
    subprocess.run([modisco, "motifs", *files, *sizes, "-o", str(tmp_path / "motifs.h5")], check=True)
    with h5py.File(tmp_path / "motifs.h5") as file:
        frequencies = file["pos_patterns"]["pattern_0"]["sequence"][:]
    assert MOTIF in "".join("ACGT"[n] for n in frequencies.argmax(1))
