import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import SPECIAL_TOKENS, with_template
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.variants.alleles import View
from dnabert2_jax.variants.windows import spans_of_views
from tests.genome.helpers import random_dna
from tests.variants.helpers import find_span

FLANK = st.text("ACGTN", max_size=120) | st.text("AC", max_size=120) | st.integers(0, 120).map(lambda n: "A" * n)
TWO_LETTERS = st.text("AC", max_size=60)
ALLELES = st.lists(st.text("ACGT", max_size=6), min_size=2, max_size=4)


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    """Pieces with runs and repeats among them."""
    texts = [random_dna(150, n) for n in range(60)] + ["A" * 90, "AC" * 60, "AAC" * 40]
    return train_bpe(texts, vocab_size=200)


def check(views, tokenizer) -> None:
    for view, found in zip(views, spans_of_views(views, tokenizer), strict=True):
        whole = tokenizer.encode_raw_batch(view.windows())
        expected = find_span(view.windows(), whole, tokenizer)
        if expected is None:
            assert found is None
            continue
        assert (found.strings, found.counts) == (expected.strings, expected.counts)
        assert (len(found.prefix), len(found.suffix)) == (len(expected.prefix), len(expected.suffix))
        for tokens, ids in zip(found.tokens, whole, strict=True):
            np.testing.assert_array_equal(found.row(tokens), with_template(ids))


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    views=st.lists(st.tuples(FLANK, ALLELES, FLANK), max_size=3), halos=st.sampled_from([(), (1,), (1, 4, 9), (32,)])
)
def test_as_each_window_is_encoded_by_itself(tokenizer, views, halos):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.variants.windows.HALOS", halos)  # the smaller, the more often stretches do not fit
        check([View(left, tuple(alleles), right, len(alleles) - 1, 0) for left, alleles, right in views], tokenizer)


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    pieces=st.lists(st.text("AC", min_size=2, max_size=7), unique=True, max_size=40),
    views=st.lists(st.tuples(TWO_LETTERS, ALLELES, TWO_LETTERS), min_size=1, max_size=3),
)
def test_with_any_pieces_in_any_order(pieces, views):
    tokenizer = BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *BASES, *pieces])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.variants.windows.HALOS", (2, 8))
        check([View(left, tuple(alleles), right, 0, 1) for left, alleles, right in views], tokenizer)


def test_far_from_the_variant_nothing_is_encoded_again(tokenizer, monkeypatch):
    views = [View(random_dna(256, n), tuple("ACGT"), random_dna(256, n + 50), 0, 1) for n in range(50)]
    bases = []
    encode = tokenizer.encode_raw_batch

    def counting(texts, *, num_threads=1):
        bases.append(sum(map(len, texts)))
        return encode(texts, num_threads=num_threads)

    monkeypatch.setattr(tokenizer, "encode_raw_batch", counting)
    spans_of_views(views, tokenizer)
    assert bases[0] == 50 * 513
    assert sum(bases) < 2 * bases[0]  # four times as many as a whole


def test_tokenizers_of_kmers_encode_whole_windows():
    for tokenizer in (KmerTokenizer(3, 3), KmerTokenizer(3, 1)):
        check([View(random_dna(70, 1), ("A", "ACG"), random_dna(50, 2), 0, 1)], tokenizer)
