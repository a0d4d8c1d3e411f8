"""How far the embeddings around a variant move: 1 - cosine of the mean states with REF and with ALT."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.variants.spans import Ids
from dnabert2_jax.variants.windows import OneStrand

EMBEDDED_BASES = 64
"""Bases on either side of a variant whose states are averaged."""

WeightedMeans = Callable[[list[Ids], list[NDArray[np.float32]]], NDArray[np.float64]]
"""Runs inputs, and gives the mean state of each, [inputs, D], weighted by token."""


def embedding_distances(
    strands: Sequence[OneStrand], tokenizer: Tokenizer, weighted_means: WeightedMeans
) -> NDArray[np.float64]:
    """The distance of ALT from REF on each strand, NaN where a state is zero. [strands].

    Args:
        strands: the alleles.
        tokenizer: what made their tokens.
        weighted_means: runs the model.
    """
    rows: dict[tuple[bytes, int, int], int] = {}
    inputs: list[Ids] = []
    needed: list[list[int]] = []
    for one in strands:
        needed.append([])
        for number, ids in zip((one.view.ref, one.view.alt), one.ref_and_alt, strict=True):
            before = len(one.view.left)
            key = (ids.tobytes(), before, before + len(one.view.alleles[number]))
            if key not in rows:
                rows[key] = len(inputs)
                inputs.append(ids)
            needed[-1].append(rows[key])
    variants = np.array([(first, after) for _, first, after in rows])
    means = weighted_means(inputs, _base_weights(inputs, variants, tokenizer))
    refs, alts = np.moveaxis(means[needed], 1, 0)
    norms = np.linalg.norm(refs, axis=1) * np.linalg.norm(alts, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Rounding may leave a cosine of 1 + 1e-16.
        return np.where(norms > 0, np.maximum(0, 1 - np.sum(refs * alts, axis=1) / norms), np.nan)


def _base_weights(inputs: list[Ids], variants: NDArray[np.int64], tokenizer: Tokenizer) -> list[NDArray[np.float32]]:
    """How many of the bases beside the variant each token has; those of the variant itself are left out.

    Args:
        inputs: ids of the windows, special tokens included, [tokens] each.
        variants: first base of the variant in each, and the base after it. [inputs, 2].
        tokenizer: what made them.

    Returns:
        [tokens] for each input.
    """
    counts = np.array(list(map(len, inputs)))
    lengths = tokenizer.token_bases(np.concatenate(inputs)).astype(np.int64)
    after = np.cumsum(counts)
    before = after - counts
    ends = np.cumsum(lengths)
    ends -= np.repeat(ends[after - 1] - np.add.reduceat(lengths, before), counts)
    starts = ends - lengths
    first, behind = np.repeat(variants, counts, axis=0).T
    left = np.minimum(ends, first) - np.maximum(starts, first - EMBEDDED_BASES)
    right = np.minimum(ends, behind + EMBEDDED_BASES) - np.maximum(starts, behind)
    weights = (np.maximum(left, 0) + np.maximum(right, 0)).astype(np.float32)
    return [weights[begin:end] for begin, end in zip(before.tolist(), after.tolist(), strict=True)]
