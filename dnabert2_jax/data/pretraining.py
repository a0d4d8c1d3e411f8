"""From a corpus to masked rows: windows are tokenized on the fly, so every epoch sees new crops and rows need no padding.

The rows of a step are a function of its number (:meth:`PretrainingRows.batch`), so there is no iterator state to save, and
processes need not communicate. Grain runs that function ahead of the model, on several threads and in order; its
shuffling, repeating and checkpointing are not used, because they would make a row depend on the steps before it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.data.masking import mask_rows
from dnabert2_jax.genome.corpus import Corpus, Split
from dnabert2_jax.genome.windows import Windows
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import CLS, NUM_SPECIAL, PAD, SEP
from dnabert2_jax.types import MlmBatch, TokenBatch

_PROBE_ROWS = 256
_READERS = min(32, max(2, os.cpu_count() or 1))
"""Threads that make batches: the tokenizer, which is nine tenths of the work, releases the GIL."""

_AHEAD = 2
"""Finished batches to keep, beyond those that the threads are working on."""


def window_bases_for(corpus: Corpus, tokenizer: Tokenizer, tokens_per_row: int, seed: int) -> int:
    """Bases per window such that 99 of 100 windows fill a row.

    Tokenizing more than is kept wastes work and tokenizing less leaves padding, so this is measured on the corpus.

    Args:
        corpus: the source of the windows.
        tokenizer: the tokenizer.
        tokens_per_row: T, including ``[CLS]`` and ``[SEP]``.
        seed: the run's seed; the result is a pure function of the arguments.
    """
    wanted = tokens_per_row - 2
    longest = int(tokenizer.piece_lengths.max()) * wanted + _overlap(tokenizer) - 1
    windows = Windows(corpus, longest, seed)
    rows = tokenizer.encode_raw_batch(windows.sequences(range(_PROBE_ROWS)))
    covered = [int(tokenizer.token_bases(row[:wanted]).sum()) for row in rows if len(row) >= wanted]
    return int(np.quantile(covered, 0.99)) if covered else longest


def _overlap(tokenizer: Tokenizer) -> int:
    """Number of tokens that contain a given base."""
    return tokenizer.k if isinstance(tokenizer, KmerTokenizer) and tokenizer.overlapping else 1


class PretrainingRows:
    """Masked rows by global record index: a pure function of the corpus, the tokenizer, the settings and the index.

    Args:
        corpus: the DNA.
        tokenizer: the tokenizer.
        tokens_per_row: T.
        masking: rates; the default span length is k tokens for overlapping k-mers, else a single token.
        seed: determines windows and masks.
        split: "train", or "validation" for the held-out blocks.
        reverse_complement: read half of the training windows from the other strand.

    Attributes:
        windows: the stretches of DNA that become rows.
        masking: rates and spans.

    Raises:
        UserError: the split is empty.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        tokens_per_row: int,
        masking: MaskingConfig,
        seed: int,
        split: Split = "train",
        reverse_complement: bool = True,
    ) -> None:
        window_bases = window_bases_for(corpus, tokenizer, tokens_per_row, seed)
        self.windows = Windows(corpus, window_bases, seed, split, reverse_complement=reverse_complement)
        self.masking = masking if masking.span_tokens else replace(masking, span_tokens=_overlap(tokenizer))
        self.tokens_per_row, self._tokenizer, self._seed = tokens_per_row, tokenizer, seed

    def of_split(self, split: Split) -> "PretrainingRows":
        """Rows of another split with the same window length, which is not measured again.

        Raises:
            UserError: the split is empty.
        """
        other, windows = copy(self), self.windows
        other.windows = Windows(
            windows.corpus, windows.window_bases, windows.seed, split, reverse_complement=windows.reverse_complement
        )
        return other

    def batch(self, records: Sequence[int] | NDArray[np.integer]) -> MlmBatch:
        """The masked rows of the given records. Shapes [B, T] and [B, K]."""
        index, width = np.asarray(records, np.int64), self.tokens_per_row
        encoded = self._tokenizer.encode_raw_batch(self.windows.sequences(index))
        lengths = np.minimum(np.fromiter(map(len, encoded), np.int64, len(encoded)), width - 2)[:, None]
        column = np.arange(width)
        ids = np.full((len(index), width), PAD, np.int32)
        ids[:, 0] = CLS
        ids[(column > 0) & (column <= lengths)] = np.concatenate([row[: width - 2] for row in encoded])
        np.put_along_axis(ids, lengths + 1, SEP, 1)
        tokens = TokenBatch(ids, (column < lengths + 2).astype(np.int32), np.zeros_like(ids))
        return mask_rows(tokens, self.masking, seed=self._seed, records=index, vocab_size=self._tokenizer.vocab_size)


def unigram_entropy(rows: PretrainingRows, vocab_size: int, records: int = 4096) -> float:
    """Entropy in nats of the pieces that masking selects, over a sample of training rows.

    It is the loss of a model that knows only how often each piece occurs.
    """
    batch = rows.batch(range(records))
    counts = np.bincount(batch.masked_labels[batch.masked_weights > 0], minlength=vocab_size)[NUM_SPECIAL:]
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def training_batches(
    rows: PretrainingRows,
    batch_size: int,
    first_step: int,
    last_step: int,
    here: NDArray[np.integer] | None = None,
    finish: Callable[[MlmBatch], Any] = lambda batch: batch,
) -> Iterator[Any]:
    """Batches for steps ``first_step`` to ``last_step - 1``, prepared ahead of the model in the background.

    Step s holds records s * batch_size to (s + 1) * batch_size - 1 on every process: a run resumes from its step number
    alone.

    Args:
        rows: the source of the rows.
        batch_size: rows per step, over all processes.
        first_step: the first step.
        last_step: one past the last step.
        here: the rows of each batch that this process makes; None for all.
        finish: applied to each batch ahead of time, on the threads that make batches, for instance to send it to devices;
            its result replaces the batch.
    """
    if first_step >= last_step:
        return iter(())
    own = np.arange(batch_size) if here is None else here
    steps = grain.MapDataset.range(first_step, last_step)

    def one_step(step: Any) -> Any:
        return finish(rows.batch(own + int(step) * batch_size))

    options = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_READERS + _AHEAD)
    return iter(steps.map(one_step).to_iter_dataset(options))


def validation_batches(
    rows: PretrainingRows, batch_size: int, max_rows: int, here: NDArray[np.integer] | None = None
) -> Iterator[tuple[MlmBatch, NDArray[np.int32]]]:
    """Up to ``max_rows`` held-out rows, spread evenly over the split, in whole batches; the same rows at every evaluation.

    If the split has too few rows, the last batch repeats rows with weight 0. ``here``: as in :func:`training_batches`.

    Yields:
        Each batch, with the species number of each of its rows, [B].
    """
    own = np.arange(batch_size) if here is None else here
    available = rows.windows.epoch_size
    chosen = np.unique(np.linspace(0, available - 1, min(max_rows, available)).astype(np.int64))
    for start in range(0, len(chosen), batch_size):
        real = chosen[start : start + batch_size]
        records = np.concatenate([real, np.repeat(real[-1:], batch_size - len(real))])[own]
        batch = rows.batch(records)
        weights = np.where((own < len(real))[:, None], batch.masked_weights, 0)
        yield batch._replace(masked_weights=weights), rows.windows.species(records).astype(np.int32)
