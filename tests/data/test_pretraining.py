import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.data.pretraining import (
    PretrainingRows,
    training_batches,
    unigram_entropy,
    validation_batches,
    window_bases_for,
)
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import Corpus, SpeciesSource, build_corpus
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import CLS, MASK, NUM_SPECIAL, PAD, SEP, UNK
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import tiny_corpus, tiny_tokenizer

WIDTH = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("genome"), bases=30_000)


def make_rows(corpus, seed=3, **options) -> PretrainingRows:
    return PretrainingRows(
        corpus, tiny_tokenizer(), **{"tokens_per_row": WIDTH, "masking": MaskingConfig(), "seed": seed, **options}
    )


@pytest.fixture(scope="module")
def rows(corpus) -> PretrainingRows:
    return make_rows(corpus)


def assert_equal(left, right) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def unmasked(batch) -> np.ndarray:
    ids = batch.tokens.input_ids.copy()
    used = batch.masked_weights > 0
    row = np.nonzero(used)[0]
    ids[row, batch.masked_positions[used]] = batch.masked_labels[used]
    return ids


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=12, unique=True), st.data())
def test_a_row_is_a_pure_function_of_its_record(rows, records, data):
    some = data.draw(st.lists(st.sampled_from(range(len(records))), min_size=1))
    whole = rows.batch(records)
    assert_equal(rows.batch([records[i] for i in some]), jax.tree.map(lambda x: x[some], whole))


def test_shapes_and_dtypes(rows):
    batch = rows.batch(range(5))
    slots = MaskingConfig().slots(WIDTH)
    for name, shape, dtype in (
        ("masked_positions", (5, slots), np.int32),
        ("masked_labels", (5, slots), np.int32),
        ("masked_weights", (5, slots), np.float32),
        ("dropout_seeds", (5,), np.uint32),
    ):
        array = getattr(batch, name)
        assert (name, array.shape, array.dtype) == (name, shape, dtype)
    for array in batch.tokens:
        assert (array.shape, array.dtype) == ((5, WIDTH), np.int32)


def test_a_row_is_its_window_in_tokens_between_cls_and_sep(rows):
    batch = rows.batch(range(200))
    tokenizer = tiny_tokenizer()
    for ids, segments, window in zip(unmasked(batch), batch.tokens.segment_ids, rows.windows.batch(range(200)), strict=True):
        length = int(segments.sum())
        assert ids[0] == CLS
        assert ids[length - 1] == SEP
        assert (ids[1 : length - 1] >= NUM_SPECIAL).all()
        assert (ids[length:] == PAD).all()
        assert segments[:length].all()
        decoded = tokenizer.decode(ids)
        assert window.sequence.startswith(decoded)
        assert length == WIDTH or decoded == window.sequence
    assert not batch.tokens.token_type_ids.any()


def test_hardly_a_row_is_padded_and_little_is_tokenized_in_vain(rows):
    batch = rows.batch(range(2000))
    full = batch.tokens.segment_ids.sum(1) == WIDTH
    assert 0.97 < full.mean() <= 1
    covered = tiny_tokenizer().piece_lengths[unmasked(batch)].sum(1)
    assert rows.windows.window_bases < 1.6 * covered.mean()


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (6, 1), (6, 6)])
def test_windows_hold_what_a_row_of_kmers_needs_and_no_base_more(corpus, k, stride):
    tokenizer = KmerTokenizer(k, stride)
    rows = PretrainingRows(corpus, tokenizer, tokens_per_row=WIDTH, masking=MaskingConfig(), seed=3)
    lengths = np.array([len(window.sequence) for window in rows.windows.batch(range(200))])
    whole = lengths == rows.windows.window_bases  # but in a segment that is shorter
    assert whole.mean() > 0.9
    assert (rows.batch(range(200)).tokens.segment_ids.sum(1) == WIDTH)[whole].all()
    assert rows.windows.window_bases == (WIDTH - 2) * stride + k - stride


@pytest.mark.parametrize("k", [3, 6])
def test_of_a_masked_span_of_overlapping_kmers_a_base_is_hidden(corpus, k):
    tokenizer, width = KmerTokenizer(k, 1), 64
    masking = MaskingConfig(mask_share=1.0, random_share=0.0)
    batch = PretrainingRows(corpus, tokenizer, tokens_per_row=width, masking=masking, seed=3).batch(range(64))
    for ids, weights in zip(batch.tokens.input_ids, batch.masked_weights, strict=True):
        visible = np.zeros(width - 2 + k - 1, bool)
        for place in np.flatnonzero(ids[1:-1] != MASK):
            visible[place : place + k] = True
        masked = np.flatnonzero(ids[1:-1] == MASK)
        assert len(masked) == weights.sum()
        # Every masked k-mer is one of a stretch that hides some of the row.
        for stretch in np.split(masked, np.flatnonzero(np.diff(masked) > 1) + 1):
            assert not visible[stretch[0] : stretch[-1] + k].all()


def test_the_other_split_is_the_same_rows_without_measuring_again(corpus, monkeypatch):
    train, built = make_rows(corpus), make_rows(corpus, split="validation")
    monkeypatch.setattr("dnabert2_jax.data.pretraining.window_bases_for", None)
    validation = train.of_split("validation")
    assert (train.windows.split, validation.windows.split) == ("train", "validation")
    assert_equal(validation.batch(range(5)), built.batch(range(5)))


def test_a_run_may_choose_the_length_of_spans(corpus):
    def masked(tokenizer, **options):
        rows = PretrainingRows(corpus, tokenizer, tokens_per_row=64, masking=MaskingConfig(**options), seed=3)
        return rows.masking.span_tokens, rows.batch(range(20)).masked_weights.sum(1)

    span, counts = masked(KmerTokenizer(6, 1), span_tokens=1)
    assert (span, set(counts)) == (1, {MaskingConfig().slots(64)})
    span, counts = masked(tiny_tokenizer(), span_tokens=4)
    assert (span, len(set(counts)) > 1) == (4, True)
    assert [masked(t)[0] for t in (tiny_tokenizer(), KmerTokenizer(3, 3), KmerTokenizer(3, 1))] == [1, 1, 3]


def test_windows_are_measured_on_the_corpus_and_repeatable(corpus):
    widths = [window_bases_for(corpus, tiny_tokenizer(), tokens, 0) for tokens in (8, 32, 128)]
    assert widths == sorted(widths)
    assert widths == [window_bases_for(corpus, tiny_tokenizer(), tokens, 0) for tokens in (8, 32, 128)]


def test_seeds_choose_other_windows_and_other_masks(corpus, rows):
    first, other = rows.batch(range(50)), make_rows(corpus, seed=4).batch(range(50))
    assert (unmasked(first) != unmasked(other)).any(1).all()
    assert (first.dropout_seeds != other.dropout_seeds).all()


def test_a_second_epoch_has_other_crops(rows):
    records = np.arange(rows.windows.epoch_size)
    first, second = rows.batch(records), rows.batch(records + len(records))
    again = {row.tobytes() for row in unmasked(first)} & {row.tobytes() for row in unmasked(second)}
    assert len(again) < 0.1 * len(records)  # an offset comes twice by chance in one of some fifty windows


def test_rows_made_anew_are_the_same(corpus, rows):
    assert_equal(make_rows(corpus).batch(range(40)), rows.batch(range(40)))


@pytest.mark.parametrize(("first", "last"), [(0, 5), (3, 9), (1000, 1002)])
def test_the_batch_of_a_step_does_not_depend_on_where_the_run_began(rows, first, last):
    batches = list(training_batches(rows, 4, first, last))
    assert len(batches) == last - first
    for step, batch in zip(range(first, last), batches, strict=True):
        assert_equal(batch, rows.batch(range(step * 4, step * 4 + 4)))


def test_an_iterator_from_the_start_and_one_from_the_middle_agree(rows):
    late = list(training_batches(rows, 8, 25, 30))
    for a, b in zip(itertools.islice(training_batches(rows, 8, 0, 30), 25, 30), late, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize(
    "processes", [[range(12)], [range(6), range(6, 12)], [range(0, 12, 3), [1, 2, 7, 8], [4, 5, 10, 11]]]
)
def test_processes_that_share_a_batch_make_its_rows_between_them(corpus, rows, processes):
    """Which rows a process makes is the layout's choice; what is in a row is not."""
    held_out = make_rows(corpus, split="validation")

    def joined(batches_of):
        parts = [list(batches_of(np.asarray(own))) for own in processes]
        order = np.argsort(np.concatenate([np.asarray(own) for own in processes]))
        return [jax.tree.map(lambda *x: np.concatenate(x)[order], *step) for step in zip(*parts, strict=True)]

    training = joined(lambda own: training_batches(rows, 12, 3, 6, own))
    validation = joined(lambda own: validation_batches(held_out, 12, 20, own))
    assert (len(training), len(validation)) == (3, 2)
    for found, expected in zip(training, training_batches(rows, 12, 3, 6), strict=True):
        assert_equal(found, expected)
    for found, expected in zip(validation, validation_batches(held_out, 12, 20), strict=True):
        assert_equal(found, expected)


def test_a_finished_run_asks_for_nothing(rows):
    assert list(training_batches(rows, 8, 30, 30)) == []


@pytest.mark.parametrize(("batch_size", "wanted"), [(8, 20), (7, 21), (64, 20), (16, 10**6)])
def test_held_out_rows_are_spread_whole_and_the_same_each_time(corpus, batch_size, wanted):
    held_out = make_rows(corpus, split="validation")
    pairs = list(validation_batches(held_out, batch_size, wanted))
    for once, again in zip(pairs, validation_batches(held_out, batch_size, wanted), strict=True):
        assert_equal(once, again)
    batches = [batch for batch, _ in pairs]
    assert {len(batch.masked_weights) for batch in batches} == {batch_size}
    ids = np.concatenate([unmasked(batch) for batch in batches])
    real = np.concatenate([batch.masked_weights.any(1) for batch in batches])
    available = held_out.windows.epoch_size
    assert real.sum() == min(wanted, available)
    assert real[: real.sum()].all()  # fill rows come last
    everything = unmasked(held_out.batch(range(available)))
    found = [int(np.flatnonzero((everything == row).all(1))[0]) for row in ids[real]]
    assert found[0] == 0
    assert found[-1] == available - 1
    assert len(set(found)) == len(found)


def test_an_empty_split_is_refused(tmp_path):
    file = write_fasta(tmp_path / "x.fa", {"c": random_dna(3000, 0)})
    corpus = build_corpus([SpeciesSource("x", [file])], tmp_path / "corpus", validation_fraction=0)
    with pytest.raises(UserError, match="validation split is empty"):
        make_rows(corpus, split="validation")


def test_short_contigs_and_ambiguity_codes_make_short_rows_with_unknown_tokens(tmp_path):
    contigs = {"short": random_dna(30, 1), "codes": "N" * 20 + random_dna(40, 2) + "RYN"}
    source = SpeciesSource("x", [write_fasta(tmp_path / "x.fa", contigs)])
    corpus = build_corpus([source], tmp_path / "corpus", validation_fraction=0, min_contig=1, ambiguous="unk")
    rows = make_rows(corpus, tokens_per_row=128)
    batch = rows.batch(range(64))
    ids, lengths = batch.tokens.input_ids, batch.tokens.segment_ids.sum(1)
    assert lengths.max() < 128
    assert ids.shape == (64, 128)
    assert (ids == UNK).any()
    assert not (batch.masked_labels[batch.masked_weights > 0] == UNK).any()
    for row, window in zip(unmasked(batch), rows.windows.batch(range(64)), strict=True):
        assert (row == UNK).sum() == sum(letter not in "ACGT" for letter in window.sequence)


def test_the_unigram_entropy_is_that_of_the_chosen_tokens(corpus):
    rows = make_rows(corpus)
    batch = rows.batch(range(300))
    chosen = batch.masked_labels[batch.masked_weights > 0]
    share = np.unique(chosen, return_counts=True)[1] / len(chosen)
    entropy = unigram_entropy(rows, tiny_tokenizer().vocab_size, records=300)
    assert entropy == pytest.approx(-(share * np.log(share)).sum())
    assert 0 < entropy < np.log(tiny_tokenizer().vocab_size - NUM_SPECIAL)
