"""Target `shares`: how large scores can be, and the fraction of key blocks that leaves to visit.

S bounds |q k^T| / sqrt(d) by the norms of a row's queries and keys. With --model it is measured, for each layer and head, on
rows cut from FASTA files (by default the package's sample data); the largest score that occurs is shown next to it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.kernels.attention import BACKENDS, Inputs, alibi_slopes
from dnabert2_jax.kernels.attention.api import Backend
from dnabert2_jax.kernels.attention.blocked import BLOCK
from dnabert2_jax.kernels.attention.reference import reference_attention
from dnabert2_jax.kernels.attention.skipping import block_ranges, score_bound, skip_radius, visited_share
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.tokenizer.special import with_template
from dnabert2_jax.types import TokenBatch

BASES_A_TOKEN = 16  # more than any vocabulary reaches, so a piece of this length is long enough


def token_rows(model: InferenceModel, fasta: list[Path], rows: int, tokens: int) -> TokenBatch:
    """Full rows without padding, from random positions."""
    contigs = [record.sequence.decode().upper() for path in fasta for record in read_fasta(path)]
    contigs = [contig for contig in contigs if len(contig) >= tokens * BASES_A_TOKEN]
    rng = np.random.default_rng(0)
    ids = []
    for _ in range(rows):
        contig = contigs[rng.integers(len(contigs))]
        at = rng.integers(len(contig) - tokens * BASES_A_TOKEN + 1)
        (raw,) = model.tokenizer.encode_raw_batch([contig[at : at + tokens * BASES_A_TOKEN]])
        ids.append(with_template(raw[: tokens - 2]))
    batch = np.stack(ids).astype(np.int32)
    return TokenBatch(batch, np.ones_like(batch), np.zeros_like(batch))


def measured_bounds(model: InferenceModel, tokens: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    """S and the largest |score|, [layers, H] each; maximum over rows."""
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def keep(bound: Any, largest: Any) -> None:
        found.append((np.asarray(bound), np.asarray(largest)))

    def probe(inputs: Inputs, *, scale: float, skip: bool) -> Any:
        q, k = inputs.q, inputs.k
        largest = jnp.abs(jnp.einsum("bhqd,bhkd->bhqk", q, k) * scale).max((0, 2, 3))
        bound = score_bound(q, k, inputs.segment_ids, scale).max(0)
        jax.debug.callback(keep, bound, largest, ordered=True)
        return reference_attention(inputs, scale=scale, skip=skip)

    BACKENDS["probe"] = Backend("probe", "bhtd", probe)
    forward = replace(model.predictor.forward, compute=Compute(attention="probe"))
    jax.block_until_ready(forward.hidden_states(model.predictor.params, tokens))
    jax.effects_barrier()
    bounds, largest = zip(*found, strict=True)
    return np.stack(bounds), np.stack(largest)


def shares(bounds: np.ndarray, slopes: np.ndarray, tokens: int) -> tuple[float, float]:
    """Fraction of blocks visited and of (query, key) pairs within the radius, for heads with bounds [layers, H]."""
    radius = skip_radius(jnp.asarray(bounds, jnp.float32), jnp.asarray(slopes), tokens)
    ranges = block_ranges(jnp.ones((len(bounds), tokens), jnp.int32), radius, len(slopes), BLOCK, BLOCK)
    reach = np.minimum(np.asarray(radius, np.float64), tokens - 1)
    pairs = (2 * reach + 1) * tokens - reach * (reach + 1)
    return float(visited_share(ranges)), float(pairs.mean() / tokens**2)


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser("attention.py --target shares", description=__doc__)
    parser.add_argument("fasta", nargs="*", type=Path)
    parser.add_argument("--model", type=Path, help="model directory; without it, only S = 5, 10 and 20")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens per row for measuring S")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2**n for n in range(9, 21)], metavar="TOKENS")
    parser.add_argument("--heads", type=int, default=12, help="heads for S = 5, 10 and 20")
    args = parser.parse_args(arguments)
    console = Console()

    cases = {f"S = {s}": (np.full((1, args.heads), float(s)), alibi_slopes(args.heads)) for s in (5, 10, 20)}
    results: dict[str, Any] = {"block": BLOCK, "heads": args.heads}
    if args.model:
        model = InferenceModel.load(args.model, Compute())
        tokens = token_rows(model, args.fasta or list(sample_data.fasta_files().values()), args.rows, args.tokens)
        bounds, largest = measured_bounds(model, tokens)
        slopes = alibi_slopes(bounds.shape[1])
        cases["S as measured"] = (bounds, slopes)
        results["measured"] = {"model": str(args.model), "bound": bounds.tolist(), "largest_score": largest.tolist()}
        table = Table("layer", *(f"slope {slope:.3g}" for slope in slopes), title="S (largest score)")
        for layer, row in enumerate(zip(bounds, largest, strict=True), 1):
            table.add_row(str(layer), *(f"{bound:.1f} ({score:.1f})" for bound, score in zip(*row, strict=True)))
        console.print(f"{args.model}: {args.rows} rows of {args.tokens:,} tokens")
        console.print(table)

    table = Table("tokens", *cases, title=f"fraction of blocks of {BLOCK} visited (fraction of pairs within the radius)")
    results["shares"] = []
    for length in args.lengths:
        found = {name: shares(*case, length) for name, case in cases.items()}
        results["shares"].append({"tokens": length, **{name: {"blocks": b, "pairs": p} for name, (b, p) in found.items()}})
        table.add_row(f"{length:,}", *(f"{b:.3f} ({p:.3f})" for b, p in found.values()))
    console.print(table)
    return results
