"""The span between shared tokens."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from tests.helpers import tiny_tokenizer
from tests.variants.helpers import find_span

DNA = st.text("ACGTN", max_size=30)


@hypothesis.given(left=DNA, right=DNA, alleles=st.lists(st.text("ACGT", max_size=5), min_size=2, max_size=4))
def test_the_span_lies_between_shared_tokens_and_no_allele_is_empty(left, right, alleles):
    windows = [left + allele + right for allele in alleles]
    hypothesis.assume(all(windows))
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode_raw_batch(windows)
    span = find_span(windows, ids, tokenizer)
    for window, own, string, count in zip(windows, ids, span.strings, span.counts, strict=True):
        middle = own[len(span.prefix) : len(own) - len(span.suffix)]
        np.testing.assert_array_equal(np.concatenate([span.prefix, middle, span.suffix]), own)
        assert len(middle) == count > 0
        assert tokenizer.decode(span.prefix) + string + tokenizer.decode(span.suffix) == window
        assert tokenizer.decode(middle) == string
    # No token more could be shared, unless an allele was left with nothing and got one back on each side.
    if min(span.counts) > 2:
        assert len({own[len(span.prefix)] for own in ids}) > 1
        assert len({own[len(own) - len(span.suffix) - 1] for own in ids}) > 1


def test_a_window_that_an_allele_deletes_altogether_has_no_span():
    tokenizer = tiny_tokenizer()
    windows = ["ACGT", ""]
    assert find_span(windows, tokenizer.encode_raw_batch(windows), tokenizer) is None


def test_kmers():
    windows = ["AAACCCGGGTTT", "AAACCTGGGTTT"]
    consecutive, overlapping = KmerTokenizer(3, 3), KmerTokenizer(3, 1)
    assert find_span(windows, consecutive.encode_raw_batch(windows), consecutive).strings == ("CCC", "CCT")
    assert find_span(windows, overlapping.encode_raw_batch(windows), overlapping).strings == ("CCCGG", "CCTGG")
    # An indel moves all k-mers after it.
    indel = ["AAACCCGGGTTTAC", "AAACCCCGGGTTTAC"]
    assert find_span(indel, consecutive.encode_raw_batch(indel), consecutive).strings == ("GGGTTTAC", "CGGGTTTAC")
