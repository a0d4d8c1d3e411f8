import csv
import math

import jax
import jax.extend
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.gue.efficiency import (
    ARCHITECTURES,
    BASES_PER_TOKEN,
    DNABERT_2,
    Architecture,
    costs,
    explanations,
    published_efficiency,
)
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.types import TokenBatch
from tests.genome.helpers import random_dna

BY_NAME = {model.name: model for model in ARCHITECTURES}


def small(**sizes: int) -> tuple[Architecture, EncoderConfig]:
    config = EncoderConfig(**{"vocab_size": 64, "num_attention_heads": 4, **sizes})
    model = Architecture(
        "small", config.hidden_size, config.num_hidden_layers, config.intermediate_size, 64, type_vocab_size=2, gated=True
    )
    return model, config


def products(jaxpr, times: int = 1) -> int:
    """Operations of the matrix products of a traced function, those in the body of a scan as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * times * inner * math.prod(equation.outvars[0].aval.shape)
        again = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                total += products(value.jaxpr, again)
            elif isinstance(value, jax.extend.core.Jaxpr):
                total += products(value, again)
    return total


@pytest.mark.parametrize("sizes", [(32, 2, 48), (64, 3, 80)], ids=["two layers", "three layers"])
@pytest.mark.parametrize("tokens", [8, 24])
def test_forward_operations_are_those_of_the_traced_encoder(sizes, tokens):
    model, config = small(**dict(zip(("hidden_size", "num_hidden_layers", "intermediate_size"), sizes, strict=True)))
    network = sequence_classifier(config, 2, Compute(attention="reference"))
    ids = jnp.ones((1, tokens), jnp.int32)
    batch = TokenBatch(ids, ids, jnp.zeros_like(ids))
    params = jax.eval_shape(lambda: network.init(0))
    traced = jax.make_jaxpr(lambda tree: network.bind(tree).hidden_states(batch))(params)
    assert products(traced.jaxpr) == model.forward_flops(tokens)


def test_parameters_are_those_of_this_projects_own_model():
    _, config = small(hidden_size=32, num_hidden_layers=2, intermediate_size=48)
    for model, of in (
        (small(hidden_size=32, num_hidden_layers=2, intermediate_size=48)[0], config),
        (DNABERT_2, EncoderConfig()),
    ):
        shapes = jax.eval_shape(lambda of=of: masked_lm(of).init(0))
        assert model.parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Counted by PyTorch in transformers' own classes: BertForMaskedLM, and EsmForMaskedLM without its contact head.
        ("DNABERT (3-mer)", 86_095_941),
        ("DNABERT (4-mer)", 86_243_589),
        ("DNABERT (5-mer)", 86_834_181),
        ("DNABERT (6-mer)", 89_196_549),
        ("NT-500M", 480_444_425),
        ("NT-2500M", 2_537_291_785),
    ],
)
def test_parameters_are_those_that_pytorch_counts(name, parameters):
    assert BY_NAME[name].parameters == parameters


def test_parameters_are_the_published_ones_in_millions():
    for row in costs():
        assert round(row.model.parameters / 1e6) == row.published_parameters


@given(st.integers(6, 512))
def test_tokens_of_kmers_are_those_of_the_kmer_tokenizer(bases):
    sequence = random_dna(bases, 0)
    for k in (3, 6):
        tokens = len(KmerTokenizer(k, 1).encode_raw(sequence))
        assert BY_NAME[f"DNABERT ({k}-mer)"].tokens(bases) == tokens + 2
    assert BY_NAME["NT-500M"].tokens(bases) == bases // 6 + bases % 6 + 1


def test_bases_of_a_byte_pair_are_those_of_real_windows(shared_dir):
    tokenizer = Tokenizer.load(shared_dir / "data" / "dnabert2_hf")
    with (shared_dir / "data" / "tasks" / "species15_500" / "test.csv").open(newline="") as file:
        sequences = [row["sequence"] for row in csv.DictReader(file)]
    tokens = sum(map(len, tokenizer.encode_raw_batch(sequences)))
    assert sum(map(len, sequences)) / tokens == pytest.approx(BASES_PER_TOKEN, abs=0.05)


def test_published_figures_are_those_that_were_gathered(shared_dir):
    with (shared_dir / "facts" / "efficiency_published.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert published_efficiency() == {
        row["model"]: (int(row["parameters_millions"]), float(row["relative_flops_500bp"])) for row in rows
    }


def test_the_published_ratio_of_the_two_transformers_follows_from_no_length():
    small_one, large_one = BY_NAME["NT-500M"], BY_NAME["NT-2500M"]
    ratios = [large_one.forward_flops(tokens) / small_one.forward_flops(tokens) for tokens in range(1, 1003)]
    published = published_efficiency()
    assert max(ratios) < 5.34 < published["NT-2500M-multi"][1] / published["NT-500M-human"][1]
    at_500 = large_one.forward_flops(86) / small_one.forward_flops(86)
    assert 5.2 < at_500 < 5.35
    said = " ".join(explanations(costs()))
    assert f"published 6.09, derived {at_500:.2f}" in said


def test_relative_costs_are_of_dnabert_2():
    rows = {row.model.name: row for row in costs()}
    assert rows["DNABERT-2"].relative == 1
    assert rows["NT-500M"].flops == BY_NAME["NT-500M"].forward_flops(86)
    assert rows["DNABERT (3-mer)"].relative == rows["DNABERT (3-mer)"].flops / rows["DNABERT-2"].flops
