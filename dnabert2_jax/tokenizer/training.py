"""Training a BPE tokenizer on DNA with SentencePiece, with the id layout of the released DNABERT-2."""

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.genome.letters import BASES, clean_letters
from dnabert2_jax.genome.windows import Windows
from dnabert2_jax.tokenizer.bpe import FIRST_MERGE, BpeTokenizer
from dnabert2_jax.tokenizer.special import CLS, MASK, NUM_SPECIAL, PAD, SEP, SPECIAL_TOKENS, UNK

DEFAULT_VOCAB_SIZE = 4096

DEFAULT_MAX_PIECE_LENGTH = 32
"""The longest piece of the released tokenizer, in bases: five of its 4,091 pieces are this long, all repeats of two letters,
and 4,040 have 11 bases or fewer. On the genomes of 15 species, limits of 12, 16 and 64 change the bases per token by less
than 0.1 %; without a limit, a small sample wastes pieces on whole copies of its repeats."""

SENTENCE_BASES = 4096
"""Training text is cut into sentences of this length. SentencePiece drops sentences over a limit, whereas a cut only hides
the pairs that span it, one position in thousands."""

LONGEST_PIECE = 512
"""SentencePiece's own limit, in bases."""

BATCH_WINDOWS = 256
"""Windows read at a time for a sample."""

_RUN_OF_BASES = re.compile(f"[{BASES}]+")


def train_bpe(
    sequences: Iterable[str | bytes],
    *,
    vocab_size: int = DEFAULT_VOCAB_SIZE,
    max_piece_length: int = DEFAULT_MAX_PIECE_LENGTH,
    num_threads: int = 1,
) -> BpeTokenizer:
    """Learn a BPE vocabulary: [UNK] [CLS] [SEP] [PAD] [MASK], then A C G T, then the merges in the order learned.

    The letters policy applies, and text is split at IUPAC codes. The same sequences give the same tokenizer, byte for byte,
    regardless of the number of threads. Takes about 0.4 s and 40 MB per Mb of the sample.

    Args:
        sequences: the sample; read once and used in full.
        vocab_size: total number of ids, special tokens included; 9 or more.
        max_piece_length: maximum piece length in bases; 1 or more.
        num_threads: cores to use, 1 or more.

    Raises:
        UserError: an option is out of range, a letter is forbidden (the message names the sequence), a base never occurs, or
            the sample has too few pieces for ``vocab_size`` (the message gives the largest possible).
    """
    if vocab_size < FIRST_MERGE:
        raise UserError(f"vocab_size is {vocab_size}; accepted is {FIRST_MERGE} (special tokens and bases) or more")
    if not 1 <= max_piece_length <= LONGEST_PIECE:
        raise UserError(f"max_piece_length is {max_piece_length}; accepted are 1 to {LONGEST_PIECE} bases")
    if num_threads < 1:
        raise UserError(f"num_threads is {num_threads}; accepted is 1 or more")
    sentences = list(_sentences(sequences))
    if missing := [base for base in BASES if not any(base in sentence for sentence in sentences)]:
        raise UserError(
            f"the tokenizer's training sample never contains {' '.join(missing)}; give it a larger sample of DNA"
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,  # a smaller vocabulary is reported below, with its size
        max_sentencepiece_length=max_piece_length,
        num_threads=num_threads,
        max_sentence_length=SENTENCE_BASES,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_number=False,
        split_by_whitespace=False,
        # SentencePiece places its own four meta symbols by id; control symbols never result from text.
        unk_id=UNK,
        bos_id=CLS,
        eos_id=SEP,
        pad_id=PAD,
        unk_piece=SPECIAL_TOKENS[UNK],
        bos_piece=SPECIAL_TOKENS[CLS],
        eos_piece=SPECIAL_TOKENS[SEP],
        pad_piece=SPECIAL_TOKENS[PAD],
        control_symbols=[SPECIAL_TOKENS[MASK]],
        minloglevel=2,  # no progress messages; a failure still raises
    )
    proto = ModelProto.FromString(model.getvalue())
    if (possible := len(proto.pieces)) < vocab_size:
        raise UserError(
            f"vocab_size is {vocab_size}, but this sample of {sum(map(len, sentences))} bases has only {possible} pieces of "
            f"up to {max_piece_length} bases; give a larger sample or a vocab_size of at most {possible}"
        )
    return BpeTokenizer.from_pieces(_released_layout(proto))


def sample_corpus(corpus: Corpus, *, sample_bases: int, window_bases: int, seed: int) -> Iterator[str]:
    """Sequences of a corpus for :func:`train_bpe`: the windows that pretraining would read first, species by weight.

    Args:
        corpus: the DNA; its held-out blocks are not used.
        sample_bases: stop after this many bases, or after one epoch, so that a small corpus is not counted twice.
        window_bases: window length.
        seed: determines the windows.

    Raises:
        UserError: an option is below 1, or the corpus has no training sequence.
    """
    if sample_bases < 1:
        raise UserError(f"sample_bases is {sample_bases}; accepted is 1 base or more")
    windows = Windows(corpus, window_bases, seed)
    bases = 0
    for start in range(0, windows.epoch_size, BATCH_WINDOWS):
        for window in windows.batch(range(start, min(start + BATCH_WINDOWS, windows.epoch_size))):
            if bases >= sample_bases:
                return
            bases += len(window.sequence)
            yield window.sequence


def _sentences(sequences: Iterable[str | bytes]) -> Iterator[str]:
    """Runs of bases of at most SENTENCE_BASES, covering every base of ``sequences`` once."""
    for number, sequence in enumerate(sequences):
        letters, _ = clean_letters(sequence, source="tokenizer training sample", record=f"sequence {number + 1}")
        for run in _RUN_OF_BASES.findall(letters.tobytes().decode("ascii")):
            yield from (run[start : start + SENTENCE_BASES] for start in range(0, len(run), SENTENCE_BASES))


def _released_layout(proto: ModelProto) -> list[str]:
    """The pieces, with A, C, G and T moved from the end, where SentencePiece puts letters, to just after the special tokens.

    Merges apply in the order of their scores, which is their order here, so segmentation does not change.
    """
    pieces = [piece.piece for piece in proto.pieces]
    merges = [piece for piece in pieces[NUM_SPECIAL:] if len(piece) > 1]
    return [*pieces[:NUM_SPECIAL], *BASES, *merges]
