import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from dnabert2_jax import sample_data
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.build import SpeciesSource, build_corpus
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.genome.windows import Windows
from dnabert2_jax.tokenizer import training
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import SPECIAL_TOKENS
from dnabert2_jax.tokenizer.training import SENTENCE_BASES, sample_corpus, train_bpe


def textbook_bpe(text: str, merges: list[str]) -> list[str]:
    """Byte-pair encoding as Sennrich et al. (2016) describe it: apply the merges in the order they were learnt."""
    parts = list(text)
    ranks = {piece: rank for rank, piece in enumerate(merges)}
    while candidates := [(ranks[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
        _, at = min(candidates)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def test_ids_are_laid_out_like_the_released_tokenizer(tokenizer: Tokenizer):
    assert tokenizer.pieces[:9] == (*SPECIAL_TOKENS, *"ACGT")
    assert all(re.fullmatch("[ACGT]{2,32}", piece) for piece in tokenizer.pieces[9:])


def test_every_merge_joins_two_earlier_pieces(tokenizer: Tokenizer):
    for rank, piece in enumerate(tokenizer.pieces[9:]):
        known = set(tokenizer.pieces[5 : 9 + rank])
        assert any(piece[:cut] in known and piece[cut:] in known for cut in range(1, len(piece)))


def test_the_first_merge_is_the_most_frequent_pair():
    assert train_bpe(["ACACAC" * 4, "GT", "TTGG"], vocab_size=10).pieces[9] == "AC"


@settings(max_examples=20)
@given(st.text(alphabet="ACGT", min_size=1, max_size=120))
def test_segmentation_is_that_of_textbook_bpe(tokenizer: Tokenizer, text: str):
    assert [tokenizer.pieces[token] for token in tokenizer.encode_raw(text)] == textbook_bpe(text, tokenizer.pieces[9:])


def test_moving_the_letters_does_not_change_the_segmentation(chromosomes: list[str], monkeypatch: pytest.MonkeyPatch):
    before = []
    layout = training._released_layout
    monkeypatch.setattr(training, "_released_layout", lambda proto: layout(before.append(proto) or proto))
    moved = train_bpe(chromosomes[:1], vocab_size=600)
    original = sentencepiece.SentencePieceProcessor(model_proto=before[0].SerializeToString())
    assert [original.id_to_piece(token) for token in range(596, 600)] != list(moved.pieces[596:])
    for start in range(0, 100_000, 1000):
        window = chromosomes[1][start : start + 1000].upper()
        assert original.encode(window, out_type=str) == [moved.pieces[token] for token in moved.encode_raw(window)]


def test_training_repeats_bit_for_bit(chromosomes: list[str], tokenizer: Tokenizer):
    assert train_bpe(iter(chromosomes), vocab_size=1024, num_threads=2).sha256 == tokenizer.sha256
    assert train_bpe([chromosome.encode() for chromosome in chromosomes], vocab_size=1024).sha256 == tokenizer.sha256


def test_lower_case_counts_as_upper_case(chromosomes: list[str], tokenizer: Tokenizer):
    assert train_bpe([chromosome.upper() for chromosome in chromosomes], vocab_size=1024).sha256 == tokenizer.sha256


def test_no_piece_is_learnt_across_an_ambiguity_code():
    pieces = train_bpe(["CNAGR" * 50, "TAYTA"], vocab_size=11).pieces[9:]
    assert set(pieces) == {"AG", "TA"}


def test_long_sequences_are_cut_and_nothing_is_dropped(chromosomes: list[str]):
    whole = chromosomes[0][: 40 * SENTENCE_BASES]
    chunks = [whole[start : start + SENTENCE_BASES] for start in range(0, len(whole), SENTENCE_BASES)]
    assert train_bpe([whole], vocab_size=600).sha256 == train_bpe(chunks, vocab_size=600).sha256
    sentences = list(training._sentences([whole, "acgNNgg", ""]))
    assert "".join(sentences) == whole.upper() + "ACGGG"
    assert max(map(len, sentences)) == SENTENCE_BASES


def test_every_sentence_is_counted():
    # 70,000 bases of A only, then one other sentence: were it dropped, there would be no C, G or T in the vocabulary.
    assert set("ACGT") <= set(train_bpe(["A" * 70_000, "CGT"], vocab_size=12).pieces)


@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_pieces_keep_to_the_longest_length(chromosomes: list[str], length: int):
    pieces = train_bpe(
        [chromosomes[0], "ACGGT" * 800], vocab_size={1: 9, 2: 25}.get(length, 300), max_piece_length=length
    ).pieces
    assert max(map(len, pieces[5:])) == length


def test_smallest_vocabulary_is_the_four_bases():
    tokenizer = train_bpe(["ACGT"], vocab_size=9)
    assert tokenizer.encode_raw("GATTACA") == [7, 5, 8, 8, 5, 6, 5]


def test_a_sample_that_is_too_small_names_the_largest_vocabulary():
    sample = ["GATTACA" * 5]
    with pytest.raises(UserError, match=r"vocab_size is 4096, but this sample of 35 bases has only (\d+) pieces") as caught:
        train_bpe(sample)
    largest = int(re.search(r"at most (\d+)", str(caught.value))[1])
    assert train_bpe(sample, vocab_size=largest).vocab_size == largest
    with pytest.raises(UserError, match=f"at most {largest}"):
        train_bpe(sample, vocab_size=largest + 1)


@pytest.mark.parametrize(
    ("sample", "missing"), [([], "A C G T"), ([""], "A C G T"), (["NNN"], "A C G T"), (["ACCA", "aaC"], "G T")]
)
def test_a_sample_without_one_of_the_bases_is_an_error(sample: list[str], missing: str):
    with pytest.raises(UserError, match=f"never contains {missing};"):
        train_bpe(sample, vocab_size=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 8}, "vocab_size is 8; accepted is 9"),
        ({"max_piece_length": 0}, "max_piece_length is 0; accepted are 1 to 512"),
        ({"max_piece_length": 513}, "max_piece_length is 513; accepted are 1 to 512"),
        ({"num_threads": 0}, "num_threads is 0; accepted is 1"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, int], message: str):
    with pytest.raises(UserError, match=message):
        train_bpe(["ACGT"], **options)


def test_a_forbidden_letter_names_the_sequence():
    with pytest.raises(UserError, match="training sample, sequence 2, position 3: 'U'"):
        train_bpe(["ACGT", "ACU"], vocab_size=9)


def test_training_is_silent(capfd: pytest.CaptureFixture[str]):
    train_bpe(["ACGT" * 10], vocab_size=10)
    assert capfd.readouterr() == ("", "")


def test_failures_of_the_silent_trainer_still_raise():
    with pytest.raises(RuntimeError):
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([]), model_writer=io.BytesIO(), minloglevel=2)


def test_the_model_records_no_machine(tokenizer: Tokenizer, tmp_path: Path):
    proto = ModelProto.FromString(tokenizer.save(tmp_path).read_bytes())
    assert not proto.trainer_spec.HasField("num_threads")
    assert not proto.trainer_spec.input


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    species = [SpeciesSource(name, [path]) for name, path in sample_data.fasta_files().items()]
    return build_corpus(species, tmp_path_factory.mktemp("corpus") / "yeasts")


def test_a_sample_is_the_first_training_windows_up_to_its_size(corpus: Corpus):
    sample = list(sample_corpus(corpus, sample_bases=300_500, window_bases=1000, seed=7))
    expected = Windows(corpus, 1000, 7).batch(np.arange(len(sample)))
    assert sample == [window.sequence for window in expected]
    assert sum(map(len, sample[:-1])) < 300_500 <= sum(map(len, sample))


def test_a_sample_depends_on_the_seed_alone(corpus: Corpus):
    draw = [list(sample_corpus(corpus, sample_bases=5000, window_bases=500, seed=seed)) for seed in (1, 1, 2)]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2]


def test_a_sample_ends_after_one_epoch(corpus: Corpus):
    sample = list(sample_corpus(corpus, sample_bases=10**9, window_bases=1000, seed=0))
    assert len(sample) == Windows(corpus, 1000, 0).epoch_size


def test_training_from_a_corpus(corpus: Corpus):
    tokenizer = train_bpe(sample_corpus(corpus, sample_bases=200_000, window_bases=1000, seed=0), vocab_size=512)
    assert tokenizer.vocab_size == 512
    window = Windows(corpus, 1000, 0, "validation")[0].sequence
    assert tokenizer.decode(tokenizer.encode(window)) == window


def test_a_sample_of_nothing_is_an_error(corpus: Corpus):
    with pytest.raises(UserError, match="sample_bases is 0; accepted is 1"):
        list(sample_corpus(corpus, sample_bases=0, window_bases=1000, seed=0))
