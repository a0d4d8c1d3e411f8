"""One suite for every attention backend: values and gradients against an independent float64 definition."""

import os
from contextlib import nullcontext
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import BACKENDS, alibi_slopes, attention, choose_backend, tracing_for
from dnabert2_jax.platform import current_target
from tests.kernels.shapes import TEST_SHAPES, AttentionShape

TRITON_WILL_GO = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
"""On a GPU, jax 0.11 and later announce the end of what pallas_gpu is compiled with."""

pytestmark = TRITON_WILL_GO

KERNEL_TARGETS = {"pallas_tpu": ("tpu", "v5e"), "mosaic_gpu": ("gpu", "9.0"), "pallas_gpu": ("gpu", "")}


def is_here(platform, generation):
    here = current_target()
    return here.platform == platform and (platform != "gpu" or here.generation.startswith(generation))


INTERPRETED = {name: target for name, target in KERNEL_TARGETS.items() if not is_here(*target)}
"""Kernels for machines that are not here, and what their interpreter is told to be."""


def mosaic_interpreter(**options):
    """What Mosaic's kernels take as `interpret`."""
    if not hasattr(plgpu, "InterpretGPUParams"):  # jax 0.10 has it, but keeps it private
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

        return InterpretGPUParams(**options)
    return plgpu.InterpretGPUParams(**options)


THREADS = int(os.environ.get("PJRT_NPROC") or os.cpu_count() or 1)
MOSAIC_INTERPRETED = [
    pytest.mark.slow,
    pytest.mark.skipif(THREADS < 5, reason="simulated warpgroups block XLA's threads, one per core: set PJRT_NPROC=8"),
]


def every_backend():
    """The backends that can compute in float32 here."""
    for name in BACKENDS:
        if name != "mosaic_gpu":
            yield name
        elif name in INTERPRETED:  # on Hopper itself it refuses float32
            yield pytest.param(name, marks=MOSAIC_INTERPRETED)


TOLERANCE = {jnp.float32: 2e-6, jnp.bfloat16: 2e-2}


def make_inputs(shape: AttentionShape, seed: int = 0, magnitude: float = 1.0):
    rng = np.random.default_rng(seed)
    size = (shape.batch, shape.tokens, shape.heads, shape.head_dim)
    q, k, v, cotangent = (magnitude * rng.standard_normal(size, np.float32) for _ in range(4))
    if shape.packed == 0:
        segments = np.ones(size[:2], np.int32)
    else:  # random cuts; the last piece is padding, and the last row of a batch is nothing but padding
        segments = np.zeros(size[:2], np.int32)
        for row in range(shape.batch - 1):
            cuts = np.sort(rng.choice(np.arange(1, shape.tokens), shape.packed, replace=False))
            for number, (start, stop) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True), 1):
                segments[row, start:stop] = number
    return q, k, v, segments, cotangent


def definition(q, k, v, slopes, segments, cotangent):
    """Output and the three gradients in float64 numpy, straight from the formula, one head of one row at a time."""
    output, dq, dk, dv = (np.zeros(q.shape) for _ in range(4))
    distance = np.abs(np.subtract.outer(np.arange(q.shape[1]), np.arange(q.shape[1])))
    for b in range(q.shape[0]):
        visible = (segments[b][:, None] == segments[b][None]) & (segments[b][None] > 0)
        alive = segments[b] > 0
        for h in range(q.shape[2]):
            qh, kh, vh, do = (x[b, :, h].astype(np.float64) for x in (q, k, v, cotangent))
            scale = q.shape[3] ** -0.5
            scores = np.where(visible, scale * qh @ kh.T - float(slopes[h]) * distance, -np.inf)[alive]
            weights = np.zeros(distance.shape)
            exponent = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e300))
            weights[alive] = exponent / exponent.sum(-1, keepdims=True)
            output[b, :, h] = weights @ vh
            d_weights = do @ vh.T
            d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * scale
            dq[b, :, h], dk[b, :, h], dv[b, :, h] = d_scores @ kh, d_scores.T @ qh, weights.T @ do
    return output, dq, dk, dv


def assert_close(found, expected, tolerance, cotangent):
    found = np.asarray(found, np.float64)
    assert np.isfinite(found).all()
    # A lone token's dq and dk are exactly zero: there the error is relative to what cancels, which is as large as dO.
    scale = np.abs(expected).max() or np.abs(cotangent).max()
    assert np.abs(found - expected).max() <= tolerance * scale


def run(backend, q, k, v, slopes, segments, cotangent, dtype):
    q, k, v, cotangent = (jnp.asarray(x, dtype) for x in (q, k, v, cotangent))

    return compiled(backend, tuple(slopes.tolist()))(q, k, v, jnp.asarray(segments), cotangent)


@cache
def compiled(backend, slopes):
    """Output and the three gradients, jitted."""

    def both(q, k, v, segments, cotangent):
        f = lambda q, k, v: attend(backend, q, k, v, np.asarray(slopes), segment_ids=segments)  # noqa: E731
        output, vjp = jax.vjp(f, q, k, v)
        return output, *vjp(cotangent)

    return jit(backend, both)


def jit(backend, function):
    """`jax.jit`; a kernel in its interpreter is a large program that runs once, and not worth optimising."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0} if backend in INTERPRETED else None)


def attend(backend, q, k, v, slopes, function=attention, **options):
    """`attention` by one backend, a Pallas kernel in its interpreter."""
    interpret = mosaic_interpreter() if backend == "mosaic_gpu" else True
    with tracing_for(*INTERPRETED[backend], interpret=interpret) if backend in INTERPRETED else nullcontext():
        return function(q, k, v, jnp.asarray(slopes), implementation=backend, **options)


def cases():
    """Every backend, shape and dtype. Interpreted kernels are slow where another case takes the same way."""
    every = {(name, "f32") for name in TEST_SHAPES}
    packed = {("packed", "f32"), ("packed", "bf16")}
    of_its_own = {
        "mosaic_gpu": set(),
        "pallas_tpu": every | packed | {("padded", "bf16")},
        "pallas_gpu": packed | {("two_blocks", "f32")},
    }
    for backend, name, (short, dtype) in product(BACKENDS, TEST_SHAPES, {"f32": jnp.float32, "bf16": jnp.bfloat16}.items()):
        marks = [pytest.mark.slow] if backend in INTERPRETED and (name, short) not in of_its_own[backend] else []
        if backend == "mosaic_gpu":
            if backend not in INTERPRETED and dtype == jnp.float32:
                continue
            marks = MOSAIC_INTERPRETED if backend in INTERPRETED else []
        yield pytest.param(backend, name, dtype, id=f"{backend}-{name}-{short}", marks=marks)


@pytest.mark.parametrize(("backend", "name", "dtype"), list(cases()))
def test_values_and_gradients_match_the_definition(backend, name, dtype):
    shape = TEST_SHAPES[name]
    q, k, v, segments, cotangent = make_inputs(shape)
    # The definition sees the rounded inputs, so that bfloat16 is charged for its arithmetic and not for its inputs.
    rounded = [np.asarray(jnp.asarray(x, dtype), np.float32) for x in (q, k, v)]
    do = np.asarray(jnp.asarray(cotangent, dtype), np.float32)
    slopes = alibi_slopes(shape.heads)
    expected = definition(*rounded, slopes, segments, do)
    for found, wanted in zip(run(backend, q, k, v, slopes, segments, cotangent, dtype), expected, strict=True):
        assert found.dtype == dtype
        assert_close(found, wanted, TOLERANCE[dtype], cotangent)


@pytest.mark.parametrize("backend", list(every_backend()))
def test_large_scores_stay_finite_and_right(backend):
    shape = AttentionShape(1, 70, 4, 32)
    q, k, v, segments, cotangent = make_inputs(shape, magnitude=12.0)
    # Quarters: float32 adds their products exactly in any order, so that what is charged is the softmax.
    q, k = np.round(4 * q) / 4, np.round(4 * k) / 4
    slopes = alibi_slopes(shape.heads)
    expected = definition(q, k, v, slopes, segments, cotangent)
    for found, wanted in zip(run(backend, q, k, v, slopes, segments, cotangent, jnp.float32), expected, strict=True):
        assert_close(found, wanted, 5e-5, cotangent)  # scores reach 5,000: float32 keeps about 4e-4 of an exponent there


@pytest.mark.parametrize("backend", list(every_backend()))
def test_repeats_bitwise(backend):
    shape = TEST_SHAPES["packed"]
    q, k, v, segments, cotangent = make_inputs(shape)
    first, second = (run(backend, q, k, v, alibi_slopes(6), segments, cotangent, jnp.float32) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", list(every_backend()))
def test_a_packed_sequence_does_not_see_its_neighbours(backend):
    shape = TEST_SHAPES["packed"]
    q, k, v, segments, _ = make_inputs(shape)
    slopes = alibi_slopes(6)
    f = jit(backend, partial(attend, backend, slopes=slopes))
    packed = f(*map(jnp.asarray, (q, k, v)), segment_ids=jnp.asarray(segments))
    rows = np.flatnonzero(segments[0] == 2)
    alone = f(*(jnp.asarray(x[:1, rows]) for x in (q, k, v)))
    np.testing.assert_allclose(packed[0, rows], alone[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", list(every_backend()))
def test_works_under_vmap_and_remat(backend):
    shape = AttentionShape(2, 20, 4, 32)
    q, k, v, _, _ = make_inputs(shape)
    f = lambda q, k, v: attend(backend, q, k, v, alibi_slopes(4)).sum()  # noqa: E731
    if backend != "mosaic_gpu" or backend not in INTERPRETED:  # its interpreter has effects, which checkpoint refuses
        f = jax.checkpoint(f)
    stacked = [jnp.stack([jnp.asarray(x), jnp.asarray(x)[::-1]]) for x in (q, k, v)]
    found = jit(backend, jax.vmap(jax.grad(f)))(*stacked)
    wanted = jit(backend, jax.grad(f))(*map(jnp.asarray, (q, k, v)))
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], wanted[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["chunked", "blocked"])
def test_memory_grows_linearly(backend):
    def temporaries(tokens):
        x = jax.ShapeDtypeStruct((1, tokens, 2, 32), jnp.float32)
        f = lambda q, k, v: attention(q, k, v, alibi_slopes(2), implementation=backend).sum()  # noqa: E731
        return jax.jit(jax.grad(f, (0, 1, 2))).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16384) < 3 * temporaries(8192)
    assert temporaries(16384) < 16384**2  # a quarter of one head's float32 score matrix


def test_slopes_of_the_released_model():
    expected = [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    np.testing.assert_allclose(alibi_slopes(12), expected, rtol=1e-7)
    np.testing.assert_allclose(alibi_slopes(16), [2.0 ** (-i / 2) for i in range(1, 17)], rtol=1e-7)


def test_choice_of_backend():
    assert choose_backend("auto", 128).name == "reference"
    assert choose_backend("auto", 4096).name == "blocked"
    assert choose_backend("reference", 4096).name == "reference"
    with pytest.raises(UserError, match="did you mean 'blocked'"):
        choose_backend("blockd", 128)


def test_wrong_shapes_are_named():
    x = jnp.zeros((1, 8, 2, 32))
    with pytest.raises(ValueError, match=r"slopes \(3,\)"):
        attention(x, x, x, jnp.zeros(3))
