"""The shape alphabet, and the batches passed from the data pipelines to the jitted steps.

Shapes in docstrings use these letters:

====== =====================================================
B      rows per batch
T      tokens per row, padding included
K      masked positions per row (a fixed count)
V      vocabulary size
D      hidden size
F      intermediate size of the feed-forward layer
H, d   attention heads and their width (D = H * d)
N      layers
C      classes
P      maximum number of sequences per row
L      bases per row, where bases have labels
====== =====================================================
"""

from typing import Any, NamedTuple

from jaxtyping import Float32, Int32, UInt32

HostOrDevice = Any
"""A numpy array in the data pipelines, a jax array inside a jitted step; type checkers cannot tell which."""

Tree = dict[str, Any]
"""A nested dict of arrays: parameters, adapters, gradients."""


class TokenBatch(NamedTuple):
    """Inputs of the encoder.

    Attributes:
        input_ids: token ids, [B, T].
        segment_ids: 0 at padding; 1, 2, ... for the sequences of a row. Tokens attend only to their own segment. [B, T].
        token_type_ids: 0 for the first sequence of a pair (and for single ones), 1 for the second. [B, T].
    """

    input_ids: Int32[HostOrDevice, "B T"]
    segment_ids: Int32[HostOrDevice, "B T"]
    token_type_ids: Int32[HostOrDevice, "B T"]


class MlmBatch(NamedTuple):
    """A batch for masked language modeling.

    Attributes:
        tokens: the rows, with masked positions already replaced.
        masked_positions: positions to predict; unused slots repeat position 0. [B, K].
        masked_labels: the original ids at those positions. [B, K].
        masked_weights: 1 for a used slot, 0 for an unused one. [B, K].
        dropout_seeds: one per row, from (seed, global record index). [B].
    """

    tokens: TokenBatch
    masked_positions: Int32[HostOrDevice, "B K"]
    masked_labels: Int32[HostOrDevice, "B K"]
    masked_weights: Float32[HostOrDevice, "B K"]
    dropout_seeds: UInt32[HostOrDevice, "B"]


class RowBases(NamedTuple):
    """The bases of each row, for heads that label every base; a row has at most L of them.

    Attributes:
        letters: 0-3 for A, C, G, T, 4 for any other letter, -1 where the row has no more bases. [B, L].
        tokens: position in the row of the token that a base belongs to; 0, that of [CLS], where there is no base. [B, L].
        offsets: place of a base in its token, from 0. [B, L].
    """

    letters: Int32[HostOrDevice, "B L"]
    tokens: Int32[HostOrDevice, "B L"]
    offsets: Int32[HostOrDevice, "B L"]


class ClassificationBatch(NamedTuple):
    """A batch of labeled sequences, all rows padded to the same length.

    With ``starts``, a row holds several sequences, distinguished by segment, and ``labels``, ``weights`` and ``rows`` are
    per slot, [B, P]. With ``bases``, every base has a label: ``labels`` are [B, L] or [B, L, C], and ``weights``, [B, L],
    are 0 where a base does not count.

    Attributes:
        tokens: the rows.
        labels: class numbers, int32 [B]; with several labels per row, 1 for each it has, float32 [B, C]; measurements,
            float32 [B].
        weights: 1 for a sequence, 0 where there is none. [B].
        dropout_seeds: one per row, from (seed, global record index). [B].
        rows: position of the sequence in its table, -1 where there is none, so that results return in file order. [B].
        starts: position of each slot's [CLS], 0 in an unused slot, [B, P]; None where each row is one sequence.
        bases: the bases of each row, where each has a label; None elsewhere.
    """

    tokens: TokenBatch
    labels: Int32[HostOrDevice, "B ..."] | Float32[HostOrDevice, "B ..."]
    weights: Float32[HostOrDevice, "B ..."]
    dropout_seeds: UInt32[HostOrDevice, "B"]
    rows: Int32[HostOrDevice, "B ..."]
    starts: Int32[HostOrDevice, "B P"] | None = None
    bases: RowBases | None = None
