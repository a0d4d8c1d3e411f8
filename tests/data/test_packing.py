import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.data.packing import LONGEST_PACKED, MAX_WIDTHS, one_per_row, pack, padded_width, slots_of_row
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP


def rows_of(lengths):
    """Rows of the given numbers of tokens, whose ids tell them apart; the second half of each is of token type 1."""
    rows = [np.array([CLS, *(5 + (row + np.arange(n - 2)) % 97), SEP], np.int32) for row, n in enumerate(lengths)]
    return EncodedRows(rows, np.array(lengths) // 2)


some_lengths = st.lists(st.integers(3, 90) | st.integers(3, 5000), min_size=1, max_size=60)


@given(some_lengths, st.sampled_from([64, 1000, 4096]), st.booleans())
def test_every_sequence_comes_once_and_whole(lengths, tokens_per_batch, few_shapes):
    rows = rows_of(lengths)
    batches = pack(rows, tokens_per_batch, few_shapes=few_shapes)
    seen = []
    for batch, plan in zip(batches, batches.plan, strict=True):
        ids, segments, types = batch.tokens
        assert ids.shape == segments.shape == types.shape == (plan.height, plan.width)
        assert plan.height == 1 or ids.size <= tokens_per_batch
        assert batch.starts.shape == batch.rows.shape == (plan.height, slots_of_row(plan.width))
        covered = np.zeros_like(ids, dtype=bool)
        for row, slot in zip(*np.nonzero(batch.rows >= 0), strict=True):
            sequence, start = batch.rows[row, slot], batch.starts[row, slot]
            own = np.s_[row, start : start + lengths[sequence]]
            np.testing.assert_array_equal(ids[own], rows.input_ids[sequence])
            np.testing.assert_array_equal(types[own], np.arange(lengths[sequence]) >= rows.first_tokens[sequence])
            assert (segments[own] == slot + 1).all()
            assert not covered[own].any()
            covered[own] = True
            seen.append(int(sequence))
        assert (ids[~covered] == PAD).all()
        assert not segments[~covered].any()
        assert not types[~covered].any()
    assert sorted(seen) == list(range(len(lengths)))
    assert batches.real_tokens == sum(lengths)
    slots = sum(rows * width for rows, width in ((plan.height, plan.width) for plan in batches.plan))
    assert batches.padding_share == pytest.approx(1 - sum(lengths) / slots)


@given(st.lists(st.integers(3, 4096), min_size=1, max_size=200))
def test_few_shapes(lengths):
    batches = pack(rows_of(lengths), 4096)
    assert len({width for _, width in batches.shapes}) <= MAX_WIDTHS
    assert len(batches.shapes) <= 2 * MAX_WIDTHS


@given(st.integers(1, 200_000))
def test_widths_hold_and_hardly_pad(tokens):
    width = padded_width(tokens)
    assert width >= tokens
    assert width % 8 == 0
    assert width < max(17, tokens + 8, tokens * 9 / 8)
    assert padded_width(width) == width


def test_widths_are_few():
    assert sorted({padded_width(n) for n in range(65, 257)}) == [*range(72, 129, 8), *range(144, 257, 16)]


@pytest.mark.parametrize(
    ("low", "high", "most_padding"), [(22, 700, 0.04), (55, 80, 0.08), (10, 30, 0.12), (100, 4000, 0.12)]
)
def test_little_padding(low, high, most_padding):
    lengths = np.random.default_rng(0).integers(low, high, 2000).tolist()
    batches = pack(rows_of(lengths), 4096)
    assert batches.padding_share < most_padding
    assert len(batches.shapes) <= 5


def test_a_very_long_sequence_is_alone_and_the_others_are_batched_as_without_it():
    lengths = np.random.default_rng(0).integers(20, 30, 200).tolist()
    without, batches = pack(rows_of(lengths), 4096), pack(rows_of([*lengths, 25_000]), 4096)
    long, *others = batches.plan
    assert (long.height, long.members) == (1, [[200]])
    assert long.width < 25_000 * 1.25
    assert others == without.plan
    assert max(plan.width for plan in others) < 500


def test_equally_long_sequences_beyond_the_packed_ones_share_batches():
    batches = pack(rows_of([LONGEST_PACKED + 10] * 5), 20_000)
    assert [(plan.height, len(plan.members)) for plan in batches.plan] == [(3, 3), (2, 2)]


def test_short_rows_of_few_sequences():
    assert pack(rows_of([12]), 4096).shapes == {(1, 16)}
    (batch,) = pack(rows_of([12, 30, 7]), 4096)
    assert batch.tokens.input_ids.size < 100


def test_parts_of_a_long_job_share_shapes_with_little_padding():
    """Genes, whose lengths spread over orders of magnitude, in forty parts; and sequences just above a power of two."""
    rng = np.random.default_rng(0)
    shapes = {True: set(), False: set()}
    for _ in range(40):
        rows = rows_of(np.maximum(4, rng.lognormal(5.3, 0.9, 110)).astype(int).tolist())
        for few_shapes in (True, False):
            batches = pack(rows, 4096, few_shapes=few_shapes)
            shapes[few_shapes] |= batches.shapes
        assert pack(rows, 4096, few_shapes=True).padding_share < 0.1
    assert 2 * len(shapes[True]) < len(shapes[False])
    assert pack(rows_of([132] * 300), 4096, few_shapes=True).padding_share < 0.15


@given(st.lists(st.integers(3, 200), min_size=1, max_size=60), st.integers(1, 1000))
def test_inputs_of_nearly_equal_length_have_a_row_each_in_few_shapes(lengths, tokens_per_batch):
    inputs = [np.full(n, number + 5, np.int32) for number, n in enumerate(lengths)]
    batches = one_per_row(EncodedRows.of(inputs), tokens_per_batch)
    seen = []
    for plan, batch in zip(batches.plan, batches, strict=True):
        full = max(1, tokens_per_batch // plan.width)
        assert plan.width % 16 == 0
        assert plan.height == full or (plan.height < full and plan.height.bit_count() == 1)
        for row, number in enumerate(batch.rows[:, 0].tolist()):
            if number >= 0:
                seen.append(number)
                np.testing.assert_array_equal(batch.tokens.input_ids[row, : lengths[number]], inputs[number])
    assert sorted(seen) == list(range(len(lengths)))
