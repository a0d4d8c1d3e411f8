"""What is the Hopper kernel's own: races, lowering, refusals. The rest is in the suite."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import alibi_slopes, attention, choose_backend, explain_choice, tracing_for
from tests.kernels.interpret_mosaic import case
from tests.kernels.test_attention import assert_close, definition

# Until jax 0.11 the interpreter compiles every program again and again, and takes twenty times as long.
slow_in_old_interpreter = pytest.mark.slow if jax.__version_info__ < (0, 11) else lambda test: test


@slow_in_old_interpreter
def test_values_and_gradients_without_races(tmp_path):
    """Simulated warpgroups, copies and barriers: a ring of two buffers is filled and emptied several times."""
    out = tmp_path / "found.npz"
    command = [sys.executable, "-m", "tests.kernels.interpret_mosaic", str(out)]
    subprocess.run(command, env={**os.environ, "PJRT_NPROC": "8"}, check=True, timeout=600)
    q, k, v, slopes, segments, cotangent = case()
    with np.load(out) as found:
        assert not found["raced"]
        for n, expected in enumerate(definition(q, k, v, slopes, segments, cotangent)):
            assert_close(found[f"arr_{n}"], expected, 2e-6, cotangent)


def test_lowers_for_hopper():
    """Mosaic's dialect has its own rules of shapes, types and layouts, of which the interpreter knows nothing."""
    x = jax.ShapeDtypeStruct((2, 300, 4, 64), jnp.bfloat16)

    def f(q, k, v):
        with tracing_for("gpu", "9.0"):
            return attention(q, k, v, alibi_slopes(4), implementation="mosaic_gpu").astype(jnp.float32).sum()

    device = AbstractDevice("NVIDIA H100 80GB HBM3", None, platform="gpu")  # jax 0.12 asks which GPU it lowers for
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        text = jax.jit(jax.grad(f, (0, 1, 2))).trace(x, x, x).lower(lowering_platforms=("cuda",)).as_text()
    kernels = {"alibi_attention_forward", "alibi_attention_key_gradient", "alibi_attention_query_gradient"}
    assert set(re.findall(r"alibi_attention_(?:forward|\w+?_gradient)", text)) == kernels


def test_what_it_refuses_and_what_auto_says():
    for capability, reason in (
        ("8.0", "this GPU has 8.0"),
        ("10.0", "this GPU has 10.0"),
        ("", "this GPU has an unknown one"),
    ):
        with tracing_for("gpu", capability), pytest.raises(UserError, match=reason):
            choose_backend("mosaic_gpu", 512)
    with pytest.raises(UserError, match="it runs on NVIDIA GPUs, and this is a cpu"):
        choose_backend("mosaic_gpu", 512)
    with tracing_for("gpu", "9.0"):
        assert choose_backend("mosaic_gpu", 512).name == "mosaic_gpu"
        assert "has not been timed" in explain_choice(512).refusals["mosaic_gpu"]
        with pytest.raises(UserError, match="heads of 160 are wider than 128"):
            choose_backend("mosaic_gpu", 512, 160)
        x = jnp.zeros((1, 8, 2, 64))
        with pytest.raises(UserError, match="found float32, float32, float32"):
            attention(x, x, x, alibi_slopes(2), implementation="mosaic_gpu")
