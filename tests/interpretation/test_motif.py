"""A motif that decides the class is found again: by mutagenesis to the base, by integrated gradients to the token."""

from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.interpretation.ig import incomplete, integrated_gradients
from dnabert2_jax.interpretation.ism import ism
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.recipes.finetuning import finetune
from tests.helpers import finetune_content, tiny_model, write_table

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
        for seed, (split, count) in enumerate({"train": 4000, "dev": 200, "test": 200}.items())
    }
    training = {"epochs": 12, "batch_size": 32, "padded_lengths": 1}
    content = finetune_content(path / "base", tables, training=training, optimizer={"learning_rate": 2e-3})
    del content["lora"]  # all weights
    run = parse_run(FinetuneRun, content, "test")
    return InferenceModel.load(finetune(run, path / "run").model, Compute())


@pytest.mark.slow
def test_a_planted_motif_is_found(trained):
    held_out = [row for row in rows(80, 9) if row[1] == "motif"]
    sequences = given_sequences([row[0] for row in held_out])
    right = np.array(predict(trained, sequences).labels) == "motif"
    assert right.mean() > 0.8
    mutated = ism(trained, sequences, "motif")
    integrated = integrated_gradients(trained, sequences, "motif")
    shares = {"ism": [], "ig": []}
    for row, right_one, of_ism, of_ig in zip(held_out, right, mutated, integrated, strict=True):
        if right_one:
            inside = slice(row[2], row[2] + len(MOTIF))
            for method, result in (("ism", of_ism), ("ig", of_ig)):
                size = np.abs(result.contributions)
                shares[method].append(size[inside].sum() / size.sum())
    by_chance = len(MOTIF) / BASES
    print(
        {method: float(np.mean(values)) for method, values in shares.items()},
        by_chance,
        right.mean(),
        incomplete(integrated),
    )
    assert np.mean(shares["ism"]) > 3 * by_chance
    assert np.mean(shares["ig"]) > 2 * by_chance
