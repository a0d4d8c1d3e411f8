"""Nucleotide dependencies (Tomaz da Silva et al. 2024): the effect of substituting one base on the prediction of another.

Bases are predicted as in tracks: every eighth token is masked, and the probability of a letter is that of the pieces with
the letter at its position, normalized over all pieces of the token's length. Thus a base and the rest of its token are
hidden.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, base_codes
from dnabert2_jax.inference.masked_rows import log_probabilities_at_masks
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.inference.tracks.bases import PASSES, BaseProbabilities
from dnabert2_jax.interpretation.inputs import Ids, mutants, tokens_of
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.base import worthwhile_threads
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.special import MASK, UNK, with_template

SITES_AT_ONCE = 16
_SMALLEST_P = 2.0**-24
"""Probabilities are clipped to this distance from 0 and 1, the resolution of float32 sums."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DependencyMap:
    """Dependencies within one sequence.

    Attributes:
        name: name of the sequence.
        sequence: its letters.
        values: at [i, j], the largest change of the log-odds (natural logarithm) of a base at j, over the four bases there
            and the three substitutions at i; 0 on the diagonal, NaN where a base is unknown. [L, L].
    """

    name: str
    sequence: str
    values: NDArray[np.float32]


def dependency_maps(
    model: InferenceModel,
    sequences: Sequences,
    *,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> list[DependencyMap]:
    """Dependencies between the bases of some sequences under a masked language model; runs 24 inputs for each base.

    Args:
        model: a masked language model with a byte-pair tokenizer.
        sequences: single sequences, read whole.
        max_tokens: longest sequence in tokens, special tokens included; by default 512.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
        title: label of the progress bar, in bases.

    Raises:
        UserError: another kind of model or tokenizer, a sequence that cannot be explained, or out of memory.
    """
    model.need("masked_lm", "dependency", "use the model directory of `dnabert2 pretrain`, or ism for a classifier")
    if not isinstance(model.tokenizer, BpeTokenizer):
        raise UserError(
            f"{model.path} has a tokenizer of k-mers, whose neighbors give a masked token away or whose boundaries depend "
            "on where a sequence begins; dependency needs a byte-pair tokenizer"
        )
    tokens_of(model, sequences, max_tokens)
    to_bases, tokens = BaseProbabilities(model.tokenizer), batch_tokens or default_batch_tokens()
    results = []
    with ProgressBar(title, sum(map(len, sequences.sequences))) as bar:
        for name, letters in zip(sequences.names, sequences.sequences, strict=True):
            values = np.full((len(letters), len(letters)), np.nan, np.float32)
            own = base_codes(letters)
            sites = np.flatnonzero(own >= 0).tolist()
            (given,) = log_odds(model, [letters], to_bases, tokens)
            for some in [sites[at : at + SITES_AT_ONCE] for at in range(0, len(sites), SITES_AT_ONCE)]:
                texts = [text for site in some for text in mutants(letters, site) if text != letters]
                changes = np.abs(np.stack(log_odds(model, texts, to_bases, tokens)) - given).max(-1)
                values[some] = changes.reshape(len(some), len(BASES) - 1, -1).max(1)
                bar.advance(len(some))
            values[sites, sites] = 0
            results.append(DependencyMap(name, letters, values))
    return results


def log_odds(model: InferenceModel, texts: list[str], to_bases: BaseProbabilities, batch_tokens: int) -> list[Floats]:
    """The log-odds of A, C, G and T at each base with its token masked; NaN at unknown bases. [L, 4] for each text."""
    encoded = model.tokenizer.encode_raw_batch(texts, num_threads=worthwhile_threads(sum(map(len, texts))))
    passes = [(n, masked) for n, ids in enumerate(encoded) for masked in _passes(ids)]
    inputs = []
    for n, masked in passes:
        row = encoded[n].copy()
        row[masked] = MASK
        inputs.append(with_template(row))
    results = [np.full((len(text), len(BASES)), np.nan) for text in texts]
    ends = [np.cumsum(model.tokenizer.token_bases(ids)) for ids in encoded]
    for number, log_p in log_probabilities_at_masks(model, one_per_row(EncodedRows.of(inputs), batch_tokens)):
        n, masked = passes[number]
        ids = encoded[n][masked]
        lengths = model.tokenizer.token_bases(ids)
        places = np.concatenate([np.arange(e - k, e) for e, k in zip(ends[n][masked], lengths, strict=True)])
        p = np.clip(to_bases(ids, np.exp(log_p)), _SMALLEST_P, 1 - _SMALLEST_P)
        results[n][places] = np.log(p) - np.log1p(-p)
    return results


def _passes(ids: Ids) -> Iterator[NDArray[np.int64]]:
    """The tokens that each pass masks: every eighth, except those of unknown bases."""
    for first in range(PASSES):
        masked = np.arange(first, len(ids), PASSES)
        known = masked[ids[masked] != UNK]
        if len(known):
            yield known
