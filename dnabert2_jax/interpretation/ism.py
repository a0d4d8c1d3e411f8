"""In-silico saturation mutagenesis: every base is replaced by each of the other three.

For a classifier, f is computed for all mutants. They are retokenized, since a substitution moves token boundaries, so this
is the only method that resolves bases. For a masked language model, no mutants are run: each site gets ln P of the four
bases, summed over segmentations as for variants (:mod:`dnabert2_jax.variants.llr`). Neighboring sites lie in the same
masked span, so they share a few inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.data.streaming import in_chunks
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, base_codes
from dnabert2_jax.inference.masked_rows import log_probabilities_of_groups
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens, run_batches
from dnabert2_jax.interpretation.inputs import mutants, tokens_of
from dnabert2_jax.interpretation.target import Target, choose_target
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.tokenizer.base import worthwhile_threads
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import with_template
from dnabert2_jax.variants.alleles import View
from dnabert2_jax.variants.llr import DnaPieces
from dnabert2_jax.variants.span_probabilities import span_log_probabilities
from dnabert2_jax.variants.spans import Ids, Span
from dnabert2_jax.variants.windows import spans_of_views

LONGEST_SPAN = 64
"""Maximum bases of the span between the tokens shared by the four alleles of a site; beyond it, a site has no value."""

_BATCHES_A_GROUP = 8
"""The mutants of several sequences are computed together, enough to fill about this many batches."""


@dataclass(frozen=True)
class MutationScores:
    """Saturation mutagenesis of one sequence.

    Attributes:
        name: name of the sequence.
        sequence: its letters.
        unit: unit of the values.
        values: f of the sequence with A, C, G or T at each base; for a masked language model, ln P of the four. NaN at
            unknown bases and where a span is too long. [L, 4].
    """

    name: str
    sequence: str
    unit: str
    values: NDArray[np.float32]

    @property
    def scores(self) -> NDArray[np.float32]:
        """The values minus their mean over the four bases of a site: hypothetical contributions. [L, 4]."""
        return self.values - self.values.mean(1, keepdims=True)

    @property
    def contributions(self) -> NDArray[np.float32]:
        """The scores of the sequence's own bases. [L]."""
        bases = base_codes(self.sequence)
        return np.where(bases < 0, np.float32(np.nan), self.scores[np.arange(len(bases)), bases])


def ism(
    model: InferenceModel,
    sequences: Sequences,
    target: str | None = None,
    *,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> list[MutationScores]:
    """Mutate every base of some sequences.

    Args:
        model: any model with byte pairs or non-overlapping k-mers; a classifier may also have overlapping ones.
        sequences: single sequences, read whole.
        target: the class; may be omitted for a regression, and must be for a masked language model.
        max_tokens: longest sequence in tokens, special tokens included.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
        title: label of the progress bar, in bases.

    Returns:
        One result for each sequence.

    Raises:
        UserError: the model is not supported, no such class, a sequence that cannot be explained, or out of memory.
    """
    chosen: Target | None = None
    if model.kind != "masked_lm":
        chosen = choose_target(model, target, "ism")
        unit = chosen.unit
    else:
        _check_masked_lm(model, target)
        unit = "ln P"
    tokens_of(model, sequences, max_tokens)
    tokens = batch_tokens or default_batch_tokens()
    results: list[MutationScores] = []
    named = zip(sequences.names, sequences.sequences, strict=True)
    with ProgressBar(title, sum(map(len, sequences.sequences))) as bar:
        # Three mutants per base and a few bases per token: the tokens of a sequence's mutants are about its bases squared.
        for group in in_chunks(named, lambda one: len(one[1]) ** 2, _BATCHES_A_GROUP * tokens):
            names, letters = zip(*group, strict=True)
            found = _masked_lm_values(model, letters, tokens) if chosen is None else _target_values(chosen, letters, tokens)
            results += [
                MutationScores(name, own, unit, values) for name, own, values in zip(names, letters, found, strict=True)
            ]
            bar.advance(sum(map(len, letters)))
    return results


def _target_values(target: Target, sequences: Sequence[str], batch_tokens: int) -> list[NDArray[np.float32]]:
    """The value f of all mutants, [L, 4] for each sequence."""
    sites = [np.flatnonzero(base_codes(letters) >= 0).tolist() for letters in sequences]
    texts = [[mutants(letters, at) for at in own] for letters, own in zip(sequences, sites, strict=True)]
    rows = {text: n for n, text in enumerate(dict.fromkeys(text for own in texts for four in own for text in four))}
    ids = [with_template(raw) for raw in _encoded(target.model, list(rows))]
    values = np.empty(len(rows), np.float32)
    for batch, found in run_batches(target.of_batch, one_per_row(EncodedRows.of(ids), batch_tokens), None):
        used = batch.rows >= 0
        values[batch.rows[used]] = found[used]
    results = []
    for letters, own, fours in zip(sequences, sites, texts, strict=True):
        result = np.full((len(letters), len(BASES)), np.nan, np.float32)
        result[own] = values[[[rows[text] for text in four] for four in fours]]
        results.append(result)
    return results


def _masked_lm_values(model: InferenceModel, sequences: Sequence[str], batch_tokens: int) -> list[NDArray[np.float32]]:
    """The ln P of the four bases at each site, given all other bases, [L, 4] for each sequence."""
    places: list[tuple[int, int]] = []
    spans: list[Span] = []
    for number, letters in enumerate(sequences):
        own = spans_of_sites(model, letters)
        places += [(number, site) for site in own]
        spans += own.values()

    def masked(inputs: list[Ids]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        return log_probabilities_of_groups(model, one_per_row(EncodedRows.of(inputs), batch_tokens))

    results = [np.full((len(letters), len(BASES)), np.nan, np.float32) for letters in sequences]
    for (number, site), log_p in zip(places, span_log_probabilities(spans, DnaPieces(model.tokenizer), masked), strict=True):
        results[number][site] = log_p - np.logaddexp.reduce(log_p)
    return results


def spans_of_sites(model: InferenceModel, letters: str) -> dict[int, Span]:
    """The span of the four alleles at each site, except spans with unknown bases and those that are too long."""
    sites = np.flatnonzero(base_codes(letters) >= 0).tolist()
    views = [View(letters[:site], tuple(BASES), letters[site + 1 :], BASES.index(letters[site]), 0) for site in sites]
    found = {}
    for site, span in zip(sites, spans_of_views(views, model.tokenizer), strict=True):
        if span and max(map(len, span.strings)) <= LONGEST_SPAN and not any(set(s) - set(BASES) for s in span.strings):
            found[site] = span
    return found


def _encoded(model: InferenceModel, texts: list[str]) -> list[Ids]:
    return model.tokenizer.encode_raw_batch(texts, num_threads=worthwhile_threads(sum(map(len, texts))))


def _check_masked_lm(model: InferenceModel, target: str | None) -> None:
    if target is not None:
        raise UserError(f"--target {target}: {model.path} is a masked language model, which has no classes; leave it out")
    if isinstance(model.tokenizer, KmerTokenizer) and model.tokenizer.overlapping:
        raise UserError(
            f"{model.path} reads overlapping k-mers, each of which gives its neighbors away, so its masked probabilities "
            "say nothing about bases; use a model of byte pairs, or a classifier"
        )
