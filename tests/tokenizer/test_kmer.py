import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import AMBIGUITY_CODES
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.special import CLS, MASK, NUM_SPECIAL, PAD, SEP, SPECIAL_TOKENS, UNK

OVERLAPPING = [KmerTokenizer(k, 1) for k in (3, 4, 5, 6)]
ONE_AFTER_THE_OTHER = [KmerTokenizer(k, k) for k in (3, 6)]
EVERY = [*OVERLAPPING, *ONE_AFTER_THE_OTHER]

every_tokenizer = pytest.mark.parametrize("tokenizer", EVERY, ids=lambda t: f"k{t.k}-stride{t.stride}")
# Empty, or long enough for every k: what is in between is an error where k-mers overlap, tested by itself.
dna = st.just("") | st.text("ACGT", min_size=6, max_size=80)
clean_sequence = st.just("") | st.text("ACGT" * 6 + AMBIGUITY_CODES, min_size=6, max_size=80)
any_text = st.just("") | st.text(min_size=6, max_size=20) | clean_sequence


def defined(tokenizer: KmerTokenizer, sequence: str) -> list[str]:
    """The tokens of a sequence as the definition says, a piece at a time."""
    k = tokenizer.k
    if tokenizer.overlapping:
        kmers = [sequence[at : at + k] for at in range(len(sequence) - k + 1)]
        return [kmer if set(kmer) <= set("ACGT") else "[UNK]" for kmer in kmers]
    tokens = re.findall(f"[ACGT]{{{k}}}|.", sequence, re.DOTALL)
    return [token if set(token) <= set("ACGTN") else "[UNK]" for token in tokens]


def pieces_of(tokenizer: KmerTokenizer, ids: Iterable[int]) -> list[str]:
    return [tokenizer.pieces[token] for token in ids]


@every_tokenizer
def test_vocabulary(tokenizer: KmerTokenizer):
    letters = () if tokenizer.overlapping else tuple("ACGTN")
    kmers = tuple(map("".join, product("ACGT", repeat=tokenizer.k)))
    assert tokenizer.pieces == (*SPECIAL_TOKENS, *letters, *kmers)
    assert tokenizer.vocab_size == NUM_SPECIAL + len(letters) + 4**tokenizer.k
    assert tokenizer.piece_lengths[[UNK, CLS, SEP, PAD, MASK]].tolist() == [1, 0, 0, 0, 0]


@every_tokenizer
@given(st.lists(any_text, max_size=5))
@example(["", "ACGTACNACGTACGTA", "", "ACGTAC", "NNNNNN", "acgtacgt", "\U0001f9ecACGTAC ACGTACGT"])
def test_tokens_are_those_of_the_definition(tokenizer: KmerTokenizer, sequences: list[str]):
    rows = tokenizer.encode_raw_batch(sequences)
    assert [pieces_of(tokenizer, row) for row in rows] == [defined(tokenizer, s) for s in sequences]
    assert all(row.dtype == np.int32 for row in rows)


def test_example_of_the_nucleotide_transformer():
    # The second example of its README's section on tokenization; [CLS] is put in front there, too.
    tokenizer = KmerTokenizer(6, 6)
    assert pieces_of(tokenizer, tokenizer.encode_raw("ACGTGTACNTGCACGGANCGACTAGTCTGA")) == [
        "ACGTGT",
        "A",
        "C",
        "N",
        "TGCACG",
        "G",
        "A",
        "N",
        "CGACTA",
        "GTCTGA",
    ]


def test_example_of_dnabert():
    # Ji et al. (2021) cut this sequence into 3-mers as their example.
    tokenizer = KmerTokenizer(3, 1)
    assert pieces_of(tokenizer, tokenizer.encode("ATGGCT")) == [
        "[CLS]",
        "ATG",
        "TGG",
        "GGC",
        "GCT",
        "[SEP]",
    ]


@every_tokenizer
@given(dna, st.none() | dna)
def test_decode_inverts_encode(tokenizer: KmerTokenizer, text: str, pair: str | None):
    assert tokenizer.decode(tokenizer.encode(text, pair)) == text + (pair or "")


@every_tokenizer
@given(clean_sequence)
def test_decode_tells_every_base_that_a_token_holds(tokenizer: KmerTokenizer, sequence: str):
    known = [False] * len(sequence)
    position = 0
    for piece in defined(tokenizer, sequence):
        width = tokenizer.k if tokenizer.overlapping else 1 if piece == "[UNK]" else len(piece)
        if piece != "[UNK]":
            known[position : position + width] = [True] * width
        position += 1 if tokenizer.overlapping else width
    expected = "".join(letter if seen else "N" for letter, seen in zip(sequence, known, strict=True))
    assert tokenizer.decode(tokenizer.encode(sequence)) == expected


@every_tokenizer
@given(clean_sequence, st.none() | clean_sequence)
def test_offsets_cover_the_sequence(tokenizer: KmerTokenizer, text: str, pair: str | None):
    ids = np.array(tokenizer.encode(text, pair))
    bases = tokenizer.token_bases(ids)
    assert bases.sum() == len(text) + len(pair or "")
    assert (bases[np.isin(ids, [CLS, SEP])] == 0).all()
    starts = np.cumsum(bases) - bases
    for start, token in zip(starts, ids, strict=True):
        if token >= NUM_SPECIAL:
            assert (text + (pair or "")).startswith(tokenizer.pieces[token], start)


@every_tokenizer
@given(st.lists(st.tuples(clean_sequence, clean_sequence), max_size=4))
def test_a_batch_equals_single_calls(tokenizer: KmerTokenizer, rows: list[tuple[str, str]]):
    texts, pairs = [a for a, _ in rows], [b for _, b in rows]
    assert tokenizer.encode_batch(texts, pairs, num_threads=2) == [tokenizer.encode(a, b) for a, b in rows]
    assert [row.tolist() for row in tokenizer.encode_raw_batch(texts)] == [tokenizer.encode_raw(a) for a in texts]


@every_tokenizer
@given(st.data())
def test_decode_takes_any_ids_of_the_vocabulary(tokenizer: KmerTokenizer, data: st.DataObject):
    ids = data.draw(st.lists(st.integers(0, NUM_SPECIAL + 3) | st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    assert len(tokenizer.decode(ids)) == tokenizer.token_bases(ids).sum()
    assert set(tokenizer.decode(ids)) <= set("ACGTN")


def test_contradicting_kmers_decode_to_the_one_that_starts_there():
    tokenizer = KmerTokenizer(3, 1)
    ids = [tokenizer.pieces.index(piece) for piece in ("AAA", "CCC", "[UNK]", "GGG", "[UNK]")]
    assert tokenizer.decode(ids) == "ACCGGGN"


@every_tokenizer
@pytest.mark.parametrize("token", [-1, 10_000])
def test_decoding_refuses_ids_outside_the_vocabulary(tokenizer: KmerTokenizer, token: int):
    with pytest.raises(UserError, match=re.escape(f"ids[1] is {token}; accepted are 0 to {tokenizer.vocab_size - 1}")):
        tokenizer.decode([5, token])


def test_lower_case_and_forbidden_letters_follow_the_policy():
    tokenizer = KmerTokenizer(3, 3)
    assert tokenizer.encode("acgTTT") == tokenizer.encode("ACGTTT")
    assert tokenizer.encode_raw("acg") == [UNK] * 3
    with pytest.raises(UserError, match="text, position 4: 'U'"):
        tokenizer.encode("ACGU")


@pytest.mark.parametrize("tokenizer", OVERLAPPING, ids=lambda t: f"k{t.k}")
def test_a_sequence_too_short_for_an_overlapping_kmer_is_an_error(tokenizer: KmerTokenizer):
    enough = "ACGTAC"[: tokenizer.k]
    assert len(tokenizer.encode(enough)) == 3
    with pytest.raises(
        UserError, match=rf"sequences\[1\] has {tokenizer.k - 1} bases, .*accepted are {tokenizer.k} or more"
    ):
        tokenizer.encode_raw_batch([enough, enough[1:], enough])


@every_tokenizer
def test_save_and_load(tokenizer: KmerTokenizer, tmp_path: Path):
    file = tokenizer.save(tmp_path)
    assert file == tmp_path / "kmer_tokenizer.json"
    assert file_sha256(file) == tokenizer.sha256
    for copy in (Tokenizer.load(tmp_path), Tokenizer.load(file)):
        assert isinstance(copy, KmerTokenizer)
        assert (copy.k, copy.stride, copy.sha256) == (tokenizer.k, tokenizer.stride, tokenizer.sha256)


def test_every_kind_has_a_hash_of_its_own():
    assert len({tokenizer.sha256 for tokenizer in EVERY}) == len(EVERY)


@pytest.mark.parametrize(
    ("k", "stride", "message"),
    [(2, 1, "k is 2; accepted are 3 to 6"), (7, 7, "k is 7"), (6, 3, r"stride is 3; accepted are 1 \(.*\) and 6")],
)
def test_other_sizes_are_refused(k: int, stride: int, message: str):
    with pytest.raises(UserError, match=message):
        KmerTokenizer(k, stride)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"kind": "kmer"',
        b'{"kind": "kmer", "k": 6}',
        b'{"kind": "kmer", "k": 9, "stride": 1}',
        b'{"kind": "kmer", "k": "6", "stride": 1}',
        b'{"kind": "kmer", "k": 6, "stride": 2}',
        b'{"kind": "bpe", "k": 6, "stride": 6}',
        b'{"kind": "kmer", "k": 6, "stride": 6, "letters": "ACGU"}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "kmer_tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{file}: not a k-mer tokenizer (")) as refused:
        Tokenizer.load(file)
    assert "\n" not in str(refused.value)


def test_no_tokenizer_json_for_kmers(tmp_path: Path):
    with pytest.raises(UserError, match=r"a tokenizer of k-mers cannot be written as tokenizer\.json"):
        KmerTokenizer(6, 6).save_hugging_face(tmp_path)
    assert not list(tmp_path.iterdir())
