"""Run the Mosaic kernels in their interpreter: `PJRT_NPROC=8 python -m tests.kernels.interpret_mosaic OUT.npz`.

The interpreter simulates each warpgroup by a thread that runs an XLA program, and a warpgroup that waits at a barrier blocks
one of the threads of XLA's pool, of which there is one per core. On two cores the simulation would wait for itself; the size
of the pool can only be set before JAX starts.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from dnabert2_jax.kernels.attention import alibi_slopes, attention, tracing_for
from tests.kernels.shapes import AttentionShape
from tests.kernels.test_attention import make_inputs, mosaic_interpreter


def case() -> tuple[np.ndarray, ...]:
    """q, k, v, slopes, segment ids and dO: three blocks, with edge tiles, inner tiles on both sides, and padding."""
    q, k, v, segments, cotangent = make_inputs(AttentionShape(1, 300, 1, 32))
    segments[0, 270:290], segments[0, 290:] = 2, 0
    return q, k, v, alibi_slopes(2)[1:], segments, cotangent


def main(out: str) -> None:
    """Write the output and the gradients of `case`, and whether threads raced, to a file."""
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter

    q, k, v, slopes, segments, cotangent = map(jnp.asarray, case())

    def both(q, k, v, cotangent):
        with tracing_for("gpu", "9.0", interpret=mosaic_interpreter(detect_races=True)):
            f = lambda *qkv: attention(*qkv, slopes, segment_ids=segments, implementation="mosaic_gpu")  # noqa: E731
            output, vjp = jax.vjp(f, q, k, v)
            return output, *vjp(cotangent)

    found = [np.asarray(x) for x in jax.jit(both)(q, k, v, cotangent)]
    np.savez(out, *found, raced=interpreter.get_races().races_found)


if __name__ == "__main__":
    main(sys.argv[1])
