"""One attention implementation at one shape; started and driven by benchmarks/attention_cpu.py.

Reads the shape from its argument and "forward" or "both" from each line of standard input; answers each with a line of JSON.
Also runs under an interpreter with torch but without jax or this package.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Prepared(NamedTuple):
    """A call ready to run, and the temporary memory it is known to need."""

    run: Callable[[], Any]
    needs_bytes: int


def memory(field: str, file: str = "/proc/self/status") -> int:
    """A field of the Linux process or machine status, in bytes."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def with_jax(shape: dict[str, Any], arrays: list[np.ndarray]) -> Callable[[str], Prepared]:
    import jax
    import jax.numpy as jnp

    from dnabert2_jax.kernels.attention import Inputs
    from dnabert2_jax.kernels.attention.blocked import blocked_attention
    from dnabert2_jax.kernels.attention.chunked import chunked_attention
    from dnabert2_jax.kernels.attention.reference import reference_attention

    inputs = [jnp.asarray(x) for x in arrays]
    slopes, segments = jnp.asarray(shape["slopes"], jnp.float32), jnp.ones((shape["batch"], shape["tokens"]), jnp.int32)
    functions = {"reference": reference_attention, "chunked": chunked_attention}
    function = functions.get(shape["implementation"], blocked_attention)
    skip = shape["implementation"] == "blocked"

    def forward(q: jax.Array, k: jax.Array, v: jax.Array, _: Any = None) -> jax.Array:
        return function(Inputs(q, k, v, slopes, segments), scale=shape["head_dim"] ** -0.5, skip=skip)[0]

    def both(q: jax.Array, k: jax.Array, v: jax.Array, d_output: jax.Array) -> Any:
        output, vjp = jax.vjp(forward, q, k, v)
        return output, vjp(d_output)

    def prepare(what: str) -> Prepared:
        calls: dict[str, Callable[..., Any]] = {"forward": forward, "both": both}
        compiled = jax.jit(calls[what]).lower(*inputs).compile()
        needs = compiled.memory_analysis()
        assert needs is not None
        return Prepared(lambda: jax.block_until_ready(compiled(*inputs)), needs.temp_size_in_bytes)

    return prepare


def with_torch(shape: dict[str, Any], arrays: list[np.ndarray]) -> Callable[[str], Prepared]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    def attend(arrays: list[Any], bias: Any, what: str) -> Any:
        q, k, v, d_output = arrays
        if what == "forward":
            with torch.inference_mode():
                return scaled_dot_product_attention(q, k, v, attn_mask=bias)
        output = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return output, torch.autograd.grad(output, (q, k, v), d_output)

    def dense_bias(tokens: int) -> Any:
        position = torch.arange(tokens, dtype=torch.float32)
        distance = (position[:, None] - position[None]).abs()
        return -torch.tensor(shape["slopes"])[None, :, None, None] * distance

    inputs = [torch.from_numpy(x).requires_grad_(n < 3) for n, x in enumerate(arrays)]
    for what in ("forward", "both"):  # libraries load on first use, which is not the call's memory
        attend([x[:, :, :16] for x in inputs], dense_bias(16), what)
    bias: list[Any] = []  # built by the first call and counted as its memory

    def prepare(what: str) -> Prepared:
        def run() -> Any:
            return attend(inputs, bias[0], what)

        def first() -> Any:
            if not bias:
                bias.append(dense_bias(shape["tokens"]))
            return run()

        return Prepared(first, 3 * 4 * len(shape["slopes"]) * shape["tokens"] ** 2)

    return prepare


def main() -> None:
    shape = json.loads(sys.argv[1])
    rng = np.random.default_rng(0)
    size = (shape["batch"], len(shape["slopes"]), shape["tokens"], shape["head_dim"])
    arrays = [rng.standard_normal(size, np.float32) for _ in range(4)]
    prepare = (with_torch if shape["implementation"] == "PyTorch" else with_jax)(shape, arrays)
    prepared = {what: prepare(what) for what in ("forward", "both")}
    before = memory("VmRSS")
    for line in sys.stdin:
        run, needs = prepared[line.strip()]
        if needs > 0.8 * memory("MemAvailable", "/proc/meminfo"):
            print(json.dumps({"needs_bytes": needs}), flush=True)
            continue
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        start, cpu_start = time.perf_counter(), time.process_time()
        result = run()
        times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
        print(json.dumps({**times, "peak_bytes": memory("VmHWM") - before}), flush=True)
        del result


if __name__ == "__main__":
    main()
