"""A whole bacterial chromosome in one context, without windows: on this CPU, or compiled for a GPU or TPU not present here.

    python benchmarks/chromosome.py --target cpu --tokenizer TOKENIZER --tokens 32768 131072 --size 117m --layers 1 FASTA
    python benchmarks/chromosome.py --target cpu --tokenizer TOKENIZER --size 3m --layers 2 FASTA
    python benchmarks/chromosome.py --target gpu
    python benchmarks/chromosome.py --target tpu

cpu: the longest contig of the file is embedded (mean of the hidden states) by an encoder with random weights, in float32
with `blocked` attention; without --tokens, the whole contig. Blocks are skipped based on the actual queries and keys.
gpu, tpu: the 117M model in bfloat16 on an H100, or one chromosome per four chips of a v5e:4x4 (heads and inner channels
sharded over them): memory as planned by the compiler, and operations for the blocks of S = 10. Requires `make aot`.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding

sys.path.insert(0, str(Path(__file__).parents[1]))

from aot import compile_for_gpu, compile_for_tpu, gpu_devices, tpu_devices
from aot.chips import CHIPS, GPUS
from attention_cpu_child import memory
from attention_shares import shares

from dnabert2_jax.config.model import EncoderConfig, named_size
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.kernels.attention import BACKENDS, Inputs, alibi_slopes, tracing_for
from dnabert2_jax.kernels.attention.api import Backend
from dnabert2_jax.kernels.attention.blocked import BLOCK, blocked_attention
from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius, visited_share
from dnabert2_jax.modeling import block
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.flops import attention_flops, projection_flops
from dnabert2_jax.modeling.models import Network, masked_lm
from dnabert2_jax.parallel.layout import make_layout
from dnabert2_jax.parallel.mesh import ROWS, make_mesh
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.special import with_template
from dnabert2_jax.types import TokenBatch, Tree

GPU, TOPOLOGY, CHIPS_A_ROW = "H100", "v5e:4x4", 4
SCORE_BOUND = 10.0


def flops(config: EncoderConfig, tokens: int) -> tuple[float, float]:
    """Operations in one row's matrix products: all except attention's, and attention's without skipping."""
    d, layers = config.hidden_size, float(config.num_hidden_layers * tokens)
    return layers * projection_flops(d, config.intermediate_size), layers * attention_flops(tokens, d)


def mean_embedding(network: Network[Any]) -> Any:
    """(parameters, one row of tokens [B, T]) -> [B, D]."""

    def embed(params: Tree, tokens: TokenBatch) -> jax.Array:
        return network.bind(params).hidden_states(tokens).astype(jnp.float32).mean(axis=1)

    return embed


def counting_backend(found: list[float]) -> Backend:
    """`blocked`, and the fraction of its blocks that it visits in each layer."""

    def attend(inputs: Inputs, *, scale: float, skip: bool) -> Any:
        q, k, _, slopes, segment_ids = inputs
        whole = segment_ids[:, : segment_ids.shape[1] // BLOCK * BLOCK]
        radius = skip_radius(score_bound(q, k, segment_ids, scale), slopes, segment_ids.shape[1])
        share = visited_share(block_ranges(whole, radius, q.shape[1], BLOCK, BLOCK))
        jax.debug.callback(lambda share: found.append(float(share)), share)
        return blocked_attention(inputs, scale=scale, skip=skip)

    return Backend("counting", "bhtd", attend)


def contig_tokens(fasta: Path, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """Ids of the longest contig, with [CLS] and [SEP], and its number of bases."""
    sequence = max((record.sequence.decode().upper() for record in read_fasta(fasta)), key=len)
    return np.asarray(with_template(tokenizer.encode_raw(sequence)), np.int32), len(sequence)


def on_cpu(config: EncoderConfig, ids: np.ndarray) -> dict[str, Any]:
    """Time, memory and visited blocks of one row."""
    row = jnp.asarray(ids)[None]
    tokens = TokenBatch(row, jnp.ones_like(row), jnp.zeros_like(row))
    found: list[float] = []
    BACKENDS["counting"] = counting_backend(found)
    network = masked_lm(config, Compute(attention="counting"))
    params = network.init(0)
    compiled = jax.jit(mean_embedding(network)).lower(params, tokens).compile()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    began, cpu = time.perf_counter(), time.process_time()
    embedding = np.asarray(compiled(params, tokens))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    jax.effects_barrier()
    if not np.isfinite(embedding).all():
        raise SystemExit("the embedding is not finite")
    linear, attention = flops(config, len(ids))
    planned = compiled.memory_analysis()
    assert planned is not None
    figures = {
        "tokens": len(ids),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_bytes": memory("VmHWM") - before,
        "planned_bytes": planned.temp_size_in_bytes,
        "visited_shares": found,
        "flops": linear + attention * float(np.mean(found)),
        "dense_flops": linear + attention,
    }
    peak, visited = figures["peak_bytes"] / 2**30, ", ".join(f"{share:.4f}" for share in found)
    print(
        f"{len(ids):>9,} tokens: {seconds:,.1f} s ({cpu:,.1f} s of CPU), {peak:.2f} GiB peak memory besides the weights;"
        f" blocks visited {visited} by layer;"
        f" {figures['flops'] / 1e12:.2f} TFLOP, {figures['dense_flops'] / 1e12:.2f} without skipping",
        flush=True,
    )
    return figures


def count_for(config: EncoderConfig, tokens: int) -> dict[str, float]:
    """Operations per row at S = 10."""
    bounds = np.full((1, config.num_attention_heads), SCORE_BOUND)
    share, _ = shares(bounds, alibi_slopes(config.num_attention_heads), tokens)
    linear, attention = flops(config, tokens)
    print(
        f"{linear / 1e12:,.0f} TFLOP per row outside attention, {share * attention / 1e12:,.0f} in attention with the"
        f" fraction {share:.4f} of blocks left at S = {SCORE_BOUND:g}, {attention / 1e12:,.0f} with all blocks"
    )
    return {"linear_flops": linear, "attention_flops": attention, "visited_share": share}


def on_gpu(config: EncoderConfig, tokens: int) -> dict[str, Any]:
    """Compile one row for one GPU."""
    network = masked_lm(config, Compute("bfloat16", "pallas_gpu"))
    here = SingleDeviceSharding(gpu_devices(GPU)[0])
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), network.abstract())
    ids = jax.ShapeDtypeStruct((1, tokens), jnp.int32, sharding=here)
    with tracing_for("gpu", ".".join(map(str, GPUS[GPU].capability))):
        compiled = compile_for_gpu(mean_embedding(network), params, TokenBatch(ids, ids, ids), gpu=GPU)
    print(f"{tokens:,} tokens; {compiled}")
    return compiled.to_json()


def on_tpu(config: EncoderConfig, tokens: int) -> dict[str, Any]:
    """Compile a row for every CHIPS_A_ROW chips of a slice."""
    devices, generation = tpu_devices(TOPOLOGY), TOPOLOGY.partition(":")[0]
    options = MeshOptions(tensor=CHIPS_A_ROW)
    network = masked_lm(config, Compute("bfloat16", "pallas_tpu"))
    mesh = make_mesh(options, devices)
    layout = make_layout(options, mesh, network.abstract(), network.axes(), config)
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        network.abstract(),
        layout.shardings(layout.params),
    )
    rows = len(devices) // CHIPS_A_ROW
    ids = jax.ShapeDtypeStruct((rows, tokens), jnp.int32, sharding=NamedSharding(mesh, ROWS))
    embed = mean_embedding(network)

    def divided(params: Tree, tokens: TokenBatch) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return embed(params, tokens)

    with tracing_for("tpu", generation):
        compiled = compile_for_tpu(divided, params, TokenBatch(ids, ids, ids), topology=TOPOLOGY)
    used, hbm = compiled.memory.peak, CHIPS[generation].hbm_bytes
    print(f"{TOPOLOGY}, {rows} rows of {tokens:,} tokens: {used / 2**30:.2f} of {hbm / 2**30:.0f} GiB per chip")
    return {"topology": TOPOLOGY, "rows": rows, "peak_bytes": used, "temporary_bytes": compiled.memory.temporaries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="?", type=Path, help="cpu: a FASTA file")
    parser.add_argument("--target", choices=("cpu", "gpu", "tpu"), required=True)
    parser.add_argument("--tokenizer", type=Path, help="cpu: tokenizer directory or file")
    parser.add_argument("--size", default="117m", help="model size that sets the widths")
    parser.add_argument("--layers", type=int, help="number of layers (default: that of --size)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[], help="lengths (default: the contig; gpu, tpu: 2^20)")
    parser.add_argument("--whole-feed-forward", action="store_true", help="all tokens at once, to measure memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    if options.whole_feed_forward:
        block.FEED_FORWARD_TOKENS = 2**31
    results: list[dict[str, Any]] = []
    changes = {} if options.layers is None else {"num_hidden_layers": options.layers}
    if options.target == "cpu":
        if options.fasta is None or options.tokenizer is None:
            parser.error("--target cpu needs a FASTA file and --tokenizer")
        tokenizer = Tokenizer.load(options.tokenizer)
        began = time.perf_counter()
        ids, bases = contig_tokens(options.fasta, tokenizer)
        print(
            f"{options.fasta.name}: {bases:,} bases, {len(ids):,} tokens in {time.perf_counter() - began:.1f} s", flush=True
        )
        config = replace(named_size(options.size, tokenizer.vocab_size), **changes)
        for tokens in options.tokens or [len(ids)]:
            results.append(on_cpu(config, ids[:tokens]))
    else:
        config = replace(named_size(options.size, 4096), **changes)
        for tokens in options.tokens or [2**20]:
            compiled = on_gpu(config, tokens) if options.target == "gpu" else on_tpu(config, tokens)
            results.append({"tokens": tokens, **count_for(config, tokens), **compiled})
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
