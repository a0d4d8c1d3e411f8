"""Distance between the embeddings around a variant: 1 - cosine of the mean states with REF and with ALT."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.variants.spans import Ids
from dnabert2_jax.variants.windows import OneStrand

EMBEDDED_BASES = 64
"""Bases on either side of a variant whose states are averaged."""

WeightedMeans = Callable[[list[Ids], list[NDArray[np.float32]]], NDArray[np.float64]]
"""Runs the model on inputs with token weights; returns the weighted mean state of each input, [inputs, D]."""


def embedding_distances(
    strands: Sequence[OneStrand], tokenizer: Tokenizer, weighted_means: WeightedMeans
) -> NDArray[np.float64]:
    """The distance between REF and ALT on each strand, NaN where a mean state is zero. [strands].

    Args:
        strands: the alleles.
        tokenizer: the tokenizer of their windows.
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
        # Rounding may give a cosine of 1 + 1e-16.
        return np.where(norms > 0, np.maximum(0, 1 - np.sum(refs * alts, axis=1) / norms), np.nan)


def _base_weights(inputs: list[Ids], variants: NDArray[np.int64], tokenizer: Tokenizer) -> list[NDArray[np.float32]]:
    """The number of flanking bases in each token, without the bases of the variant itself.

    Args:
        inputs: ids of the windows, special tokens included, [tokens] each.
        variants: first base of the variant in each window, and the base after its last. [inputs, 2].
        tokenizer: the tokenizer that produced the ids.

    Returns:
        [tokens] for each input.
    """
    counts = np.array(list(map(len, inputs)))
    lengths = tokenizer.token_bases(np.concatenate(inputs)).astype(np.int64)
    after = np.cumsum(counts)
    before = after - counts
    ends = np.cumsum(lengths)
    ends -= np.repeat(ends[before], counts)  # a row begins with [CLS], which has no bases
    first, behind = np.repeat(variants.T, counts, axis=1)
    flanking = np.clip(ends, first - EMBEDDED_BASES, first) + np.clip(ends, behind, behind + EMBEDDED_BASES)
    weights = np.diff(flanking, prepend=0).astype(np.float32)  # from the end of the token before to its own
    weights[before] = 0
    return [weights[begin:end] for begin, end in zip(before.tolist(), after.tolist(), strict=True)]
