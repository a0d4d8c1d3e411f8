"""Batches of one sequence per row, padded to one of a few lengths.

Rows are padded to a few lengths rather than to the longest row of the file: a jitted step is compiled once per length, and
short rows do not pay for a long one. The content of a batch is a pure function of (seed, epoch), so a run resumed in the
middle of an epoch sees the same batches as an uninterrupted one.
"""

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.base_windows import EncodedWindows
from dnabert2_jax.data.batches import Batches, BatchPlan, TrainingBatches
from dnabert2_jax.data.encoding import EncodedRows, EncodedTable
from dnabert2_jax.draws import Domain, hash64, record_seeds

LabeledRows = EncodedTable | EncodedWindows
"""Rows to train on: each has a label, or each of its bases."""


def choose_lengths(lengths: NDArray[np.integer], max_shapes: int = 3, multiple: int = 8) -> tuple[int, ...]:
    """The padded lengths, at most ``max_shapes``, that need the fewest padded tokens in total.

    Args:
        lengths: tokens in every row that will be batched. [rows].
        max_shapes: maximum number of lengths; each costs a compilation.
        multiple: every length is a multiple of this many tokens.

    Returns:
        Ascending lengths; the last one fits the longest row.
    """
    if max_shapes < 1 or multiple < 1 or not len(lengths):
        raise ValueError(f"max_shapes {max_shapes} and multiple {multiple} must be at least 1, of {len(lengths)} rows")
    rounded = -(-np.asarray(lengths, np.int64) // multiple) * multiple
    candidates, counts = np.unique(rounded, return_counts=True)
    rows_up_to = np.cumsum(counts)
    # best[j]: fewest padded tokens for the rows up to candidate j if candidate j is the longest length in use; one length
    # at first, one more per round. before[j]: the length used before j, or -1 where one more did not help.
    best = candidates * rows_up_to
    rounds: list[NDArray[np.int64]] = []
    for _ in range(max_shapes - 1):
        improved, before = best.copy(), np.full(len(candidates), -1)
        for j in range(1, len(candidates)):
            totals = best[:j] + candidates[j] * (rows_up_to[j] - rows_up_to[:j])
            i = int(np.argmin(totals))
            if totals[i] < best[j]:
                improved[j], before[j] = totals[i], i
        best = improved
        rounds.append(before)
    j = len(candidates) - 1
    chosen = [int(candidates[j])]
    for before in reversed(rounds):
        if before[j] >= 0:
            j = int(before[j])
            chosen.append(int(candidates[j]))
    return tuple(reversed(chosen))


def epoch_batches(encoded: LabeledRows, batch_size: int, seed: int, epoch: int, lengths: tuple[int, ...]) -> TrainingBatches:
    """The training batches of one epoch: every row once, in an order drawn from (seed, epoch).

    A batch is drawn at random from the rows of one padded length, and the batches of all lengths are shuffled together. The
    rows left over at one length (a random few, different in each epoch) move up to the next length in use. An epoch thus has
    ceil(rows / batch_size) steps regardless of the lengths, and at most one short batch: a step over two or three rows would
    move the parameters as far as a full one, in a noisier direction.

    Args:
        encoded: the rows.
        batch_size: rows per batch.
        seed: the run's seed.
        epoch: from 0.
        lengths: padded lengths, from :func:`choose_lengths`.

    Returns:
        Batches whose dropout seeds depend on the record index ``epoch * len(encoded) + row``, never on the batch.

    Raises:
        ValueError: a row is longer than the last length.
    """
    plan = _plan(encoded, epoch_order(len(encoded), seed, epoch), batch_size, lengths)
    order = np.argsort(hash64(seed, Domain.BATCH_ORDER, epoch, np.arange(len(plan))), kind="stable")
    return TrainingBatches(
        Batches(encoded, [plan[i] for i in order]), encoded.labels, epoch_seeds(len(encoded), seed, epoch)
    )


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows of a table in an order drawn from (seed, epoch). [rows]."""
    return np.argsort(hash64(seed, Domain.ROW_ORDER, epoch, np.arange(rows)), kind="stable")


def epoch_seeds(rows: int, seed: int, epoch: int) -> NDArray[np.uint32]:
    """A dropout seed for every row, from the record index ``epoch * rows + row``. [rows]."""
    return record_seeds(seed, epoch * rows + np.arange(rows))


def evaluation_batches(encoded: EncodedRows, batch_size: int, lengths: tuple[int, ...]) -> Batches:
    """Batches that hold every row once, short rows first and otherwise in file order.

    Raises:
        ValueError: a row is longer than the last length.
    """
    return Batches(encoded, _plan(encoded, np.arange(len(encoded)), batch_size, lengths))


def _plan(encoded: EncodedRows, order: NDArray[np.int64], batch_size: int, lengths: tuple[int, ...]) -> list[BatchPlan]:
    """The batches of the rows in the given order; only the last one may be short."""
    if encoded.lengths.max() > lengths[-1]:
        raise ValueError(f"a row of {encoded.lengths.max()} tokens does not fit the lengths {lengths}")
    bucket = np.searchsorted(lengths, encoded.lengths)[order]
    plan: list[BatchPlan] = []
    rows = order[:0]
    for number in np.unique(bucket):
        rows = np.concatenate([rows, order[bucket == number]])
        while len(rows) >= batch_size or (len(rows) and number == bucket.max()):
            plan.append(BatchPlan(lengths[number], batch_size, rows[:batch_size, None]))
            rows = rows[batch_size:]
    return plan
