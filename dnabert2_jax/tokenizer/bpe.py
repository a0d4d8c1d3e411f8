"""Byte-pair encoding of DNA: a SentencePiece model whose ids are laid out like those of the released DNABERT-2.

Two layers, kept apart. *Raw* encoding takes clean upper-case sequence and returns the ids of that sequence alone; this is
what pretraining reads. :meth:`Tokenizer.encode` puts the letters policy before it and the special tokens around it.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.letters import AMBIGUITY_CODES, clean_letters
from dnabert2_jax.tokenizer.special import BASES, NUM_SPECIAL, SPECIAL_TOKENS, UNK, with_template

MODEL_FILE = "tokenizer.model"
FIRST_MERGE = NUM_SPECIAL + len(BASES)

_RUNS = re.compile("[ACGT]+|[^ACGT]+")
_NOT_RAW = re.compile(f"[^{BASES}{AMBIGUITY_CODES}]")


class Tokenizer:
    """DNA to token ids and back.

    Pickles to its model's bytes, so it can be sent to data workers; encoding releases the GIL.

    Attributes:
        pieces: the text of every id, special tokens included.
        piece_lengths: bases that each id covers: 0 for [CLS], [SEP], [PAD] and [MASK], 1 for [UNK], shape [vocab_size]. The
            cumulative sum of ``piece_lengths[ids]`` maps tokens to bases.
        sha256: hex digest of the serialized model, that is, of the file that :meth:`save` writes.
    """

    pieces: tuple[str, ...]
    piece_lengths: NDArray[np.int32]
    sha256: str

    def __init__(self, model: bytes, *, source: str = "tokenizer model") -> None:
        """Check and wrap a serialized SentencePiece ModelProto.

        Args:
            model: the bytes of a ``tokenizer.model``.
            source: where they came from, for error messages.

        Raises:
            UserError: not a SentencePiece model, or not one of this layout.
        """
        self.pieces = _checked_pieces(model, source)
        self.piece_lengths = np.array([0] * NUM_SPECIAL + [len(piece) for piece in self.pieces[NUM_SPECIAL:]], np.int32)
        self.piece_lengths[UNK] = 1
        self.piece_lengths.flags.writeable = False
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._model = model
        self._texts = ("N",) + ("",) * (NUM_SPECIAL - 1) + self.pieces[NUM_SPECIAL:]
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(
                f"{source}: SentencePiece refuses this model ({error}); the file is damaged, copy it again"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer from a directory that holds ``tokenizer.model``, or from that file itself.

        Raises:
            UserError: the file is missing, damaged, or a SentencePiece model of another layout.
        """
        path = Path(path)
        file = path / MODEL_FILE if path.is_dir() else path
        if not file.is_file():
            raise UserError(
                f"{file}: no such file; a tokenizer is a {MODEL_FILE} or a directory that holds one; "
                f"train one with `dnabert2 tokenizer train`"
            )
        return cls(file.read_bytes(), source=str(file))

    def save(self, directory: str | Path) -> Path:
        """Write ``tokenizer.model`` into ``directory``, which is made if need be, and return the file's path.

        Raises:
            UserError: it cannot be written.
        """
        file = Path(directory) / MODEL_FILE
        partial = file.with_name(f"{file.name}.partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(self._model)
            partial.replace(file)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise UserError(
                f"{file} could not be written ({error.strerror}); make room or choose another directory"
            ) from error
        return file

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return type(self), (self._model,)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.pieces)

    def encode_raw(self, sequence: str) -> list[int]:
        """The ids of one clean sequence, without special tokens; see :meth:`encode_raw_batch`."""
        return self.encode_raw_batch([sequence])[0].tolist()

    def encode_raw_batch(self, sequences: Sequence[str], *, num_threads: int = 1) -> list[NDArray[np.int32]]:
        """The ids of clean sequences, without special tokens: the fast path for pretraining.

        Args:
            sequences: upper-case A, C, G, T and IUPAC codes, as the letters policy leaves them.
            num_threads: cores to use, 1 or more.

        Returns:
            An array of shape [tokens] for each sequence; every IUPAC code is one [UNK].

        Raises:
            UserError: any other letter.
        """
        # SentencePiece fuses neighbouring unknown letters into one id, so it only ever gets to see runs of bases.
        runs = [_RUNS.findall(sequence) for sequence in sequences]
        bases = [run for row in runs for run in row if run[0] in BASES]
        encoded = iter(self._processor.encode(bases, return_type="numpy", num_threads=num_threads))
        rows = []
        for number, row in enumerate(runs):
            parts = [next(encoded) if run[0] in BASES else _unknown(run, number) for run in row]
            rows.append(parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int32), *parts]))
        return rows

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """``[CLS] text [SEP]`` or ``[CLS] text [SEP] pair [SEP]`` as ids.

        Lower case is taken as soft-masking and upper-cased, IUPAC codes become one [UNK] each. To count what was changed,
        call :func:`~dnabert2_jax.tokenizer.letters.clean_letters` first.

        Raises:
            UserError: a letter that is neither a base nor an IUPAC code; names the argument and the position.
        """
        ids_a = self.encode_raw(_clean(text, "text"))
        ids_b = None if pair is None else self.encode_raw(_clean(pair, "pair"))
        return with_template(ids_a, ids_b).tolist()

    def encode_batch(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, num_threads: int = 1
    ) -> list[NDArray[np.int32]]:
        """:meth:`encode` for many rows.

        Args:
            texts: the (first) sequences.
            pairs: the second sequences, as many as there are texts.
            num_threads: cores to use, 1 or more.

        Returns:
            An array of shape [tokens] for each row.

        Raises:
            UserError: a forbidden letter (names argument, row and position), or unequal numbers of texts and pairs.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"texts has {len(texts)} rows and pairs {len(pairs)}; every text needs its pair")
        clean_a = [_clean(text, f"texts[{row}]") for row, text in enumerate(texts)]
        clean_b = [_clean(text, f"pairs[{row}]") for row, text in enumerate(pairs or ())]
        ids_a = self.encode_raw_batch(clean_a, num_threads=num_threads)
        ids_b = [None] * len(ids_a) if pairs is None else self.encode_raw_batch(clean_b, num_threads=num_threads)
        return [with_template(a, b) for a, b in zip(ids_a, ids_b, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids back to sequence: [UNK] becomes N, the other special tokens are skipped.

        Raises:
            UserError: an id outside the vocabulary.
        """
        letters = []
        for position, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise UserError(f"ids[{position}] is {token}; accepted are 0 to {self.vocab_size - 1}")
            letters.append(self._texts[token])
        return "".join(letters)


def _unknown(run: str, number: int) -> NDArray[np.int32]:
    """One [UNK] for every IUPAC code of ``run``."""
    if stray := _NOT_RAW.search(run):
        raise UserError(
            f"sequence {number}: {stray.group()!r} is not upper-case DNA; accepted are {' '.join(BASES + AMBIGUITY_CODES)}; "
            f"raw encoding expects clean sequence: use Tokenizer.encode, or clean_letters first"
        )
    return np.full(len(run), UNK, np.int32)


def _clean(text: str, argument: str) -> str:
    return clean_letters(text, source="encode", record=argument)[0].tobytes().decode("ascii")


def _checked_pieces(model: bytes, source: str) -> tuple[str, ...]:
    """The pieces of a serialized model after checking that it means what this package takes it to mean.

    The checks are strict enough for a damaged file, too: SentencePiece itself loads flipped bytes without a word.
    """
    try:
        proto = ModelProto.FromString(model)
    except DecodeError:
        proto = ModelProto()
    if not proto.pieces:
        raise UserError(f"{source}: not a SentencePiece model, or a damaged one; copy it again or train a tokenizer anew")

    def refuse(found: str, accepted: str) -> UserError:
        return UserError(
            f"{source}: {found}; accepted is {accepted}; this file is damaged, or was not made by "
            f"`dnabert2 tokenizer train`, which trains one that fits"
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
        raise refuse(f"text is normalised ({spec.name!r})", "the identity, without dummy prefix or white-space handling")
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        raise refuse(f"the model type is {proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)}", "BPE")
    return pieces
