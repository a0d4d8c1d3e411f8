import jax
import numpy as np
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.fill_mask import fill_mask, parse_range
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.tokenizer.special import CLS, MASK, PAD, SEP
from dnabert2_jax.types import TokenBatch

DNA = "ACGTTTGACCATTGGCAATTACCGGATTTACG"


@pytest.fixture(scope="module")
def probabilities(mlm):
    """The model's own probabilities for every position of a row of ids."""
    network, width = masked_lm(mlm.config), 40
    positions = np.arange(width, dtype=np.int32)[None]
    function = jax.jit(lambda params, tokens: jax.nn.softmax(network.bind(params).logits(tokens, positions)))

    def of(ids):
        row = np.array([[*ids, *[PAD] * (width - len(ids))]], np.int32)
        return np.asarray(
            function(mlm.predictor.params, TokenBatch(row, (row != PAD).astype(np.int32), np.zeros_like(row)))
        )[0]

    return of


def check(found, ids, mlm, probabilities):
    positions = [at for at, token in enumerate(ids) if token == MASK]
    assert len(found) == len(positions)
    expected = probabilities(ids)
    for token, at in zip(found, positions, strict=True):
        best = np.argsort(-expected[at])[: len(token.candidates)]
        assert [piece for piece, _ in token.candidates] == [mlm.tokenizer.pieces[n] for n in best]
        np.testing.assert_allclose([p for _, p in token.candidates], expected[at, best], atol=1e-5)
        assert token.candidates[0][1] > token.candidates[-1][1] > 0


def test_masks_in_the_text(mlm, probabilities):
    raw = mlm.tokenizer.encode_raw
    found = fill_mask(mlm, "acgttt[MASK][MASK]GACN[MASK]", top_k=3)
    check(found, [CLS, *raw("ACGTTT"), MASK, MASK, *raw("GACN"), MASK, SEP], mlm, probabilities)
    assert [(token.start, token.end, token.original) for token in found] == [(6, 6, None), (6, 6, None), (10, 10, None)]
    assert len(found[0].candidates) == 3
    check(fill_mask(mlm, "[MASK]"), [CLS, MASK, SEP], mlm, probabilities)
    check(fill_mask(mlm, "[MASK]ACGTTA"), [CLS, MASK, *raw("ACGTTA"), SEP], mlm, probabilities)


def test_ranges_mask_whole_tokens(mlm, probabilities):
    raw = mlm.tokenizer.encode_raw(DNA)
    lengths = mlm.tokenizer.piece_lengths[raw]
    ends = np.cumsum(lengths)
    long = int(np.flatnonzero(lengths > 1)[1])
    start, end = int(ends[long] - lengths[long]), int(ends[long])
    masked = [CLS, *raw[:long], MASK, *raw[long + 1 :], SEP]
    for bases in ((start, start + 1), (end - 1, end), (start, end)):
        (found,) = fill_mask(mlm, DNA, [bases])
        assert (found.start, found.end, found.original) == (start, end, DNA[start:end])
        check([found], masked, mlm, probabilities)
    neighbours = fill_mask(mlm, DNA, [(end - 1, end + 1)])
    assert [token.original for token in neighbours] == [mlm.tokenizer.pieces[n] for n in raw[long : long + 2]]


def test_everything_may_be_masked(mlm):
    found = fill_mask(mlm, DNA, [(0, 10), (5, len(DNA))], top_k=mlm.tokenizer.vocab_size)
    assert "".join(token.original for token in found) == DNA
    assert sum(p for _, p in found[0].candidates) == pytest.approx(1, abs=1e-5)


def test_mistakes(mlm, classifier):
    for sequence, ranges, message in [
        ("ACGT", [], r"nothing is masked; write \[MASK\] into the sequence, or give a range"),
        ("AC[MASK]GT", [(0, 1)], r"contains \[MASK\] and ranges were given, too"),
        ("ACGT", [(2, 5)], r"bases 3-5 \(counted from 1\) are not a range of this sequence, which has 4 bases"),
        ("ACGT", [(2, 2)], "are not a range"),
        ("AC[mask]GT", [], r"position 3: '\['"),
        ("AC[MASK]GXT", [], r"sequence, position 10: 'X'"),
        ("", [], "the sequence is empty"),
    ]:
        with pytest.raises(UserError, match=message):
            fill_mask(mlm, sequence, ranges)
    with pytest.raises(UserError, match="top_k 65 is out of range; accepted are 1 to 64"):
        fill_mask(mlm, "AC[MASK]", top_k=65)
    with pytest.raises(UserError, match="is a classifier; filling masks needs a masked_lm"):
        fill_mask(classifier, "AC[MASK]")


def test_ranges_as_people_write_them():
    assert parse_range("11-20") == (10, 20)
    assert parse_range(" 3 ") == (2, 3)
    for text in ("0-3", "0", "5-4", "-3", "3-", "a", ""):
        with pytest.raises(UserError, match=r"is not a range of bases; accepted are START-END"):
            parse_range(text)
