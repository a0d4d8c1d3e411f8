"""Batches of token rows: one assembler for training and inference, driven by a plan of which sequence goes where.

Three modules make plans: ``by_length`` (one sequence per row, rows of a few padded lengths), ``packed_epochs`` (training
batches whose rows hold several sequences) and ``packing`` (the same for inference, where the order is free).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray

from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.tokenizer.special import PAD
from dnabert2_jax.types import ClassificationBatch, HostOrDevice, RowBases, TokenBatch


class EncodedBatch(NamedTuple):
    """The network's inputs, and which sequences they are. P is the number of slots per row.

    Attributes:
        tokens: ids, segments and token types, [B, T] each; segment s of a row is its slot s - 1.
        starts: position of each slot's [CLS], 0 in an unused slot, int32 [B, P]; None where each row is one sequence.
        rows: index of the encoded row in each slot, -1 in an unused one, [B, P]; [B] where each row is one sequence.
        bases: the bases of each row, where every base has a label; None elsewhere.
    """

    tokens: TokenBatch
    starts: HostOrDevice
    rows: Int32[HostOrDevice, "B ..."]
    bases: RowBases | None = None


@dataclass(frozen=True)
class BatchPlan:
    """The shape and content of a batch.

    Attributes:
        width: T, tokens per row, padding included.
        height: B, rows in the batch; those beyond ``members`` stay empty.
        members: indices of the encoded rows that share each row of the batch, in order.
        slots: P, the maximum number that may share a row; None where each row is one sequence and there is no slot axis.
    """

    width: int
    height: int
    members: Sequence[Sequence[int] | NDArray[np.integer]] | NDArray[np.integer]
    slots: int | None = None


@dataclass(frozen=True)
class Batches(Sequence[EncodedBatch]):
    """A sequence of batches, each assembled on access.

    Attributes:
        encoded: the token rows.
        plan: shape and content of every batch.
    """

    encoded: EncodedRows
    plan: list[BatchPlan]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.plan)

    @property
    def shapes(self) -> set[tuple[int, int]]:
        """Distinct (rows, width) of the batches; each is compiled once."""
        return {(plan.height, plan.width) for plan in self.plan}

    @property
    def widths(self) -> list[int]:
        """Row widths in use, ascending."""
        return sorted({plan.width for plan in self.plan})

    @property
    def real_tokens(self) -> int:
        """Total tokens of all sequences, special tokens included."""
        lengths = self.encoded.lengths
        return sum(int(lengths[number]) for plan in self.plan for members in plan.members for number in members)

    @property
    def padding_share(self) -> float:
        """Fraction of all positions that is padding, empty rows included."""
        return 1 - self.real_tokens / sum(plan.height * plan.width for plan in self.plan)

    @overload
    def __getitem__(self, index: int) -> EncodedBatch: ...
    @overload
    def __getitem__(self, index: slice) -> "Batches": ...
    def __getitem__(self, index: int | slice) -> "EncodedBatch | Batches":
        """One batch, or the batches of a slice."""
        if isinstance(index, slice):
            return replace(self, plan=self.plan[index])
        return self._assemble(self.plan[index])

    def __iter__(self) -> Iterator[EncodedBatch]:
        """Batches in order."""
        return map(self._assemble, self.plan)

    def _assemble(self, plan: BatchPlan) -> EncodedBatch:
        shape, slots = (plan.height, plan.width), (plan.height, plan.slots or 1)
        tokens = TokenBatch(np.full(shape, PAD, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32))
        starts, rows = np.zeros(slots, np.int32), np.full(slots, -1, np.int32)
        for row, members in enumerate(plan.members):
            start = 0
            for slot, number in enumerate(members):
                ids = self.encoded.input_ids[number]
                end = start + len(ids)
                tokens.input_ids[row, start:end] = ids
                tokens.segment_ids[row, start:end] = slot + 1
                tokens.token_type_ids[row, start + self.encoded.first_tokens[number] : end] = 1
                starts[row, slot], rows[row, slot] = start, number
                start = end
        if plan.slots is None:
            return EncodedBatch(tokens, None, rows[:, 0], self.encoded.bases_of(rows[:, 0]))
        return EncodedBatch(tokens, starts, rows)


@dataclass(frozen=True)
class TrainingBatches(Sequence[ClassificationBatch]):
    """The batches of one epoch, with labels and dropout seeds.

    Attributes:
        batches: the token rows.
        labels: label of each encoded row, [rows] or [rows, C]; of each base, [rows, L] or [rows, L, C].
        dropout_seeds: seed of each encoded row; where several share a row of the batch, the first one's is used. [rows].
    """

    batches: Batches
    labels: NDArray[Any]
    dropout_seeds: NDArray[np.uint32]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    @overload
    def __getitem__(self, index: int) -> ClassificationBatch: ...
    @overload
    def __getitem__(self, index: slice) -> "TrainingBatches": ...
    def __getitem__(self, index: int | slice) -> "ClassificationBatch | TrainingBatches":
        """One batch, or the batches of a slice (to resume in the middle of an epoch)."""
        if isinstance(index, slice):
            return replace(self, batches=self.batches[index])
        return self._labeled(self.batches[index])

    def __iter__(self) -> Iterator[ClassificationBatch]:
        """Batches in order."""
        return map(self._labeled, self.batches)

    def one_of_each_shape(self) -> list[ClassificationBatch]:
        """One batch of each (rows, width) that occurs, widest first."""
        first = {(plan.height, plan.width): number for number, plan in reversed(list(enumerate(self.batches.plan)))}
        return [self[first[shape]] for shape in sorted(first, key=lambda shape: -shape[1])]

    def _labeled(self, batch: EncodedBatch) -> ClassificationBatch:
        labels, weights = self.batches.encoded.targets_of(self.labels, batch.rows)
        first = batch.rows if batch.starts is None else batch.rows[:, 0]
        return ClassificationBatch(
            tokens=batch.tokens,
            labels=labels,
            weights=weights,
            dropout_seeds=np.where(first >= 0, self.dropout_seeds[first], np.uint32(0)),
            rows=batch.rows,
            starts=batch.starts,
            bases=batch.bases,
        )
