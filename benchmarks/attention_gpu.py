"""Target `gpu`: TFLOP/s of attention with ALiBi on the local GPU, forward and both ways.

Every implementation is credited with the dense work, 4 T^2 d FLOPs per row and head forward and 2.5 times that backward, so
that savings from skipping show up as speed. `cudnn` and `xla` are jax.nn.dot_product_attention with the dense bias, built
before timing starts; `flex` is PyTorch's FlexAttention with ALiBi as its score_mod, if PyTorch can be imported. bfloat16,
12 heads of 64; as many rows of each length as make 16,384 tokens; inputs are normally distributed (their S is about 14).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch also needs some of the memory

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import alibi_slopes, attention

HEADS, HEAD_DIM = 12, 64
TOKENS_IN_ALL = 16384
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
Timed = tuple[Callable[[], Any], Callable[[], Any]]
"""Forward, and forward with backward; each returns once the GPU is done."""


def inputs(batch: int, tokens: int) -> list[np.ndarray]:
    """q, k, v and dO, [B, T, H, d]."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((batch, tokens, HEADS, HEAD_DIM), np.float32) for _ in range(4)]


def in_jax(f: Callable[..., jax.Array], arrays: list[np.ndarray]) -> Timed:
    """``f(q, k, v)``, jitted."""
    q, k, v, cotangent = (jnp.asarray(x, jnp.bfloat16) for x in arrays)

    def both(q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array) -> Any:
        output, vjp = jax.vjp(f, q, k, v)
        return output, vjp(cotangent)

    forward, both = jax.jit(f), jax.jit(both)
    return (
        lambda: jax.block_until_ready(forward(q, k, v)),
        lambda: jax.block_until_ready(both(q, k, v, cotangent)),
    )


def ours(arrays: list[np.ndarray], *, backend: str, skip: bool) -> Timed:
    slopes = jnp.asarray(alibi_slopes(HEADS))
    return in_jax(lambda q, k, v: attention(q, k, v, slopes, implementation=backend, skip=skip), arrays)


def dense(arrays: list[np.ndarray], *, implementation: str) -> Timed:
    position = np.arange(arrays[0].shape[1], dtype=np.float32)
    distance = np.abs(position[:, None] - position)
    bias = jnp.asarray(-alibi_slopes(HEADS)[None, :, None, None] * distance, jnp.bfloat16)
    f = partial(jax.nn.dot_product_attention, bias=bias, implementation=implementation)
    return in_jax(lambda q, k, v: f(q, k, v), arrays)


def flex(arrays: list[np.ndarray]) -> Timed:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v, cotangent = (torch.from_numpy(x).to("cuda", torch.bfloat16).transpose(1, 2).contiguous() for x in arrays)
    slopes = torch.from_numpy(alibi_slopes(HEADS)).cuda()
    compiled = torch.compile(flex_attention, dynamic=False)

    def alibi(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return score - slopes[head] * (query - key).abs()

    def forward() -> None:
        with torch.no_grad():
            compiled(q, k, v, score_mod=alibi)
        torch.cuda.synchronize()

    def both() -> None:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        torch.autograd.grad(compiled(*leaves, score_mod=alibi), leaves, cotangent)
        torch.cuda.synchronize()

    return forward, both


WAYS: dict[str, Callable[[list[np.ndarray]], Timed]] = {
    "mosaic_gpu": partial(ours, backend="mosaic_gpu", skip=True),
    "pallas_gpu": partial(ours, backend="pallas_gpu", skip=True),
    "without skipping": partial(ours, backend="pallas_gpu", skip=False),
    "cudnn": partial(dense, implementation="cudnn"),
    "xla": partial(dense, implementation="xla"),
    "flex": flex,
}


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The median of ``repeats`` calls, after two calls for compilation and warm-up."""
    call(), call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="attention.py --target gpu", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args(arguments)
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise SystemExit(f"no GPU here, only a {device.platform}; `--target gpu-memory` needs none")

    console = Console(width=110)
    results: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__, "seconds": {}, "failures": {}}
    for index, what in enumerate(("forward", "both ways")):
        table = Table("tokens", *WAYS, title=f"{device.device_kind}: TFLOP/s, {what}")
        for tokens in args.lengths:
            batch = max(1, TOKENS_IN_ALL // tokens)
            flops = 4 * batch * HEADS * HEAD_DIM * tokens**2 * (1 if what == "forward" else 3.5)
            cells = []
            for name, way in WAYS.items():
                try:
                    taken = seconds(way(inputs(batch, tokens))[index], args.repeats)
                except (ImportError, RuntimeError, ValueError, NotImplementedError, UserError) as error:  # memory, support
                    results["failures"][f"{name}, {what}, {tokens}"] = f"{type(error).__name__}: {error}".splitlines()[0]
                    cells.append("-")
                    continue
                results["seconds"][f"{name}, {what}, {tokens}"] = taken
                cells.append(f"{flops / taken / 1e12:.0f}")
            table.add_row(f"{tokens:,}", *cells)
        console.print(table)
    for call, reason in results["failures"].items():
        console.print(f"{call}: {reason}", soft_wrap=True)
    return results
