"""Byte-pair encoding of DNA: SentencePiece's file with the id layout of the released DNABERT-2."""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.storage.paths import as_path
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.merges import NONE, SPACE, UNKNOWN, parts_of
from dnabert2_jax.tokenizer.special import NUM_SPECIAL, SPECIAL_TOKENS, UNK
from dnabert2_jax.tokenizer.tokenizer_json import write_tokenizer_json

if TYPE_CHECKING:
    from dnabert2_jax.tokenizer.encoding import MergeEncoder

MODEL_FILE = "tokenizer.model"
FIRST_MERGE = NUM_SPECIAL + len(BASES)

_WHITE_SPACE = re.compile(r"[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
"""Unicode's White_Space property beyond ASCII; Python's ``\\s`` has four more characters."""

_CODE_OF_LETTER = bytearray([UNKNOWN]) * 256
for _number, _base in enumerate(BASES.encode()):
    _CODE_OF_LETTER[_base] = _number
for _space in b"\t\n\v\f\r ":
    _CODE_OF_LETTER[_space] = SPACE

_PARTS_A_THREAD = 4


class BpeTokenizer(Tokenizer):
    """Byte-pair encoding; every character that is not an upper-case base is one [UNK], and white space only separates.

    The released tokenizer reads text the same way, except that here the name of a special token is ordinary text.
    Encoding releases the GIL.

    Attributes:
        texts: the bases of each id; empty for special tokens.
    """

    file_name = MODEL_FILE

    def __init__(self, model: bytes, *, source: str = "tokenizer model") -> None:
        """Check and wrap a serialized SentencePiece ModelProto.

        Args:
            model: the bytes of a ``tokenizer.model``.
            source: where they came from, for error messages.

        Raises:
            UserError: not a SentencePiece model, or one of another layout.
        """
        super().__init__(_checked_pieces(model, source)[NUM_SPECIAL:], model)
        self.texts = ("",) * NUM_SPECIAL + self.pieces[NUM_SPECIAL:]

    @classmethod
    def from_pieces(cls, pieces: Sequence[str], *, source: str = "tokenizer") -> "BpeTokenizer":
        """The tokenizer for a vocabulary: the same pieces always give the same file.

        Args:
            pieces: text of every id, special tokens included; merges in rank order.
            source: where they came from, for error messages.

        Raises:
            UserError: the pieces have another layout.
        """
        kind = ModelProto.SentencePiece
        proto = ModelProto()
        for number, piece in enumerate(pieces):
            special = kind.UNKNOWN if number == UNK else kind.CONTROL
            proto.pieces.add(
                piece=piece,
                score=min(0, FIRST_MERGE - number),
                type=special if number < NUM_SPECIAL else kind.NORMAL,
            )
        proto.trainer_spec.model_type = proto.trainer_spec.BPE
        proto.trainer_spec.vocab_size = len(pieces)
        proto.normalizer_spec.name = "identity"
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False
        return cls(proto.SerializeToString(deterministic=True), source=source)

    def merges(self) -> list[tuple[str, str] | None]:
        """The two pieces that each id from ``FIRST_MERGE`` on is merged from; None for a piece that no text can produce.

        SentencePiece merges any two neighbors whose text is a piece; other programs merge only pairs from a list, and this
        is that list. It is unambiguous: see :func:`~dnabert2_jax.tokenizer.merges.parts_of`.
        """
        pairs = self.parts[FIRST_MERGE:].tolist()
        return [(self.pieces[left], self.pieces[right]) if left != NONE else None for left, right in pairs]

    def save_hugging_face(self, directory: str | Path) -> Path:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` in the layout of the released model.

        Returns:
            The path of ``tokenizer.json``.

        Raises:
            UserError: they cannot be written.
        """
        return write_tokenizer_json(self.pieces, filter(None, self.merges()), as_path(directory))

    def encode_raw_batch(self, sequences: Sequence[str], *, num_threads: int = 1) -> list[NDArray[np.int32]]:
        """The ids of sequences taken as is, without special tokens: the fast path for pretraining.

        Args:
            sequences: upper-case A, C, G and T; any other character is one [UNK], but white space only separates.
            num_threads: cores to use, 1 or more.

        Returns:
            An array of shape [tokens] for each sequence.
        """
        if num_threads == 1:
            return self._rows(sequences)
        size = max(1, len(sequences) // (num_threads * _PARTS_A_THREAD))
        parts = [sequences[at : at + size] for at in range(0, len(sequences), size)]
        with ThreadPoolExecutor(num_threads) as pool:
            return list(chain.from_iterable(pool.map(self._rows, parts)))

    def _rows(self, sequences: Sequence[str]) -> list[NDArray[np.int32]]:
        # One call for all sequences: for short ones, the calls would take longer than the encoding.
        ids, ends = self._encoder.encode(
            letter_codes("".join(sequences)), np.cumsum([len(sequence) for sequence in sequences])
        )
        stops = ends.tolist()
        return [ids[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    @cached_property
    def parts(self) -> NDArray[np.int32]:
        """The ids of the two pieces that each id is merged from; see :func:`~dnabert2_jax.tokenizer.merges.parts_of`."""
        return parts_of(self.texts)

    @cached_property
    def _encoder(self) -> "MergeEncoder":
        from dnabert2_jax.tokenizer.encoding import MergeEncoder  # imports Numba, which not every command needs

        return MergeEncoder(self.texts, self.parts)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids back to sequence: [UNK] becomes N, the other special tokens are skipped.

        Raises:
            UserError: an id outside the vocabulary.
        """
        return "".join("N" if token == UNK else self.texts[token] for token in self._checked(ids))


def letter_codes(text: str) -> NDArray[np.uint8]:
    """The code of each letter: its number among the bases, or one for what is no base, or one for white space."""
    if not text.isascii():
        text = _WHITE_SPACE.sub(" ", text)
    return np.frombuffer(text.encode("ascii", "replace").translate(_CODE_OF_LETTER), np.uint8)


def _checked_pieces(model: bytes, source: str) -> tuple[str, ...]:
    """The pieces of a serialized model, after checking that it means exactly what this package assumes.

    The checks also catch damaged files: SentencePiece itself loads flipped bytes silently.
    """
    try:
        proto = ModelProto.FromString(model)
    except DecodeError:
        proto = ModelProto()
    if not proto.pieces:
        raise UserError(f"{source}: not a SentencePiece model, or a damaged one; copy it again or train a new tokenizer")

    def refuse(found: str, accepted: str) -> UserError:
        return UserError(
            f"{source}: {found}; accepted is {accepted}; this file is damaged, or of another kind of tokenizer: "
            "train one that fits with `dnabert2 tokenizer train`"
        )

    pieces = tuple(piece.piece for piece in proto.pieces)
    if pieces[:FIRST_MERGE] != (*SPECIAL_TOKENS, *BASES):
        raise refuse(
            f"ids 0-{FIRST_MERGE - 1} are {' '.join(map(str, pieces[:FIRST_MERGE]))}", " ".join((*SPECIAL_TOKENS, *BASES))
        )
    kind = ModelProto.SentencePiece
    kinds = [kind.UNKNOWN] + [kind.CONTROL] * (NUM_SPECIAL - 1) + [kind.NORMAL] * (len(pieces) - NUM_SPECIAL)
    for number, (piece, wanted) in enumerate(zip(proto.pieces, kinds, strict=True)):
        if piece.type != wanted:
            raise refuse(
                f"id {number} ({piece.piece}) is of type {kind.Type.Name(piece.type)}", f"type {kind.Type.Name(wanted)}"
            )
        if number >= NUM_SPECIAL and (not piece.piece or not set(piece.piece) <= set(BASES)):
            raise refuse(f"id {number} is {piece.piece!r}", f"a piece of {' '.join(BASES)}")
        if number >= FIRST_MERGE and piece.score != FIRST_MERGE - number:
            raise refuse(f"id {number} has score {piece.score:g}", f"{FIRST_MERGE - number} (merges in rank order)")
    if len(set(pieces)) != len(pieces):
        raise refuse("a piece occurs twice", "every piece once")
    spec = proto.normalizer_spec
    if spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces:
        raise refuse(f"text is normalized ({spec.name!r})", "the identity, without dummy prefix or white-space handling")
    if proto.trainer_spec.byte_fallback:
        raise refuse("unknown characters become bytes", "one [UNK] for each")
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        raise refuse(f"the model type is {proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)}", "BPE")
    return pieces
