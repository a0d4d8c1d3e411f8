"""A million tokens in one row of the 117M, compiled for accelerators that are not here (`make aot`)."""

import importlib.util
from dataclasses import replace

import pytest
from aot import tpu_devices
from aot.chips import V5E

from benchmarks.chromosome import CHIPS_A_ROW, TOPOLOGY, flops, on_gpu, on_tpu
from dnabert2_jax.config.model import EncoderConfig, named_size
from dnabert2_jax.modeling import block
from tests.kernels.test_attention import TRITON_WILL_GO

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; run `make aot`"),
    TRITON_WILL_GO,
]

TOKENS = 2**20
CONFIG = named_size("117m", 4096)
GATES = 2 * TOKENS * CONFIG.intermediate_size * 2
"""Bytes of the gates and values of one layer, all tokens at once, in bfloat16."""


def test_flops_are_those_of_the_formula():
    config = EncoderConfig(hidden_size=6, num_hidden_layers=5, num_attention_heads=2, intermediate_size=7)
    products = [6 * 18, 6 * 6, 6 * 14, 7 * 6]  # Wqkv, out, gated_layers, wo
    assert flops(config, 10) == (2 * 5 * 10 * sum(products), 2 * 5 * 2 * 10 * 10 * 6)


def test_a_row_of_a_million_tokens_on_an_h100(monkeypatch):
    found = on_gpu(CONFIG, TOKENS)
    assert found["memory"]["peak"] < found["memory"]["device"] / 4
    assert [(kernel["name"], kernel["spill_stores"]) for kernel in found["kernels"]] == [("alibi_attention_forward", 0)]
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 2 * TOKENS)
    whole = on_gpu(CONFIG, TOKENS)["memory"]
    assert whole["peak"] - found["memory"]["peak"] > 0.8 * GATES


def test_rows_of_a_million_tokens_on_a_slice():
    """Two layers tell what twelve would: they are scanned, and only weights grow with them."""
    found = on_tpu(replace(CONFIG, num_hidden_layers=2), TOKENS)
    assert found["rows"] * CHIPS_A_ROW == len(tpu_devices(TOPOLOGY))
    assert found["peak_bytes"] < V5E.hbm_bytes
