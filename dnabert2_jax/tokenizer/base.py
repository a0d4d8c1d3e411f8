"""The interface shared by all tokenizers.

There are two layers. *Raw* encoding takes a sequence as is and returns its ids without special tokens; this is what
pretraining uses. :meth:`Tokenizer.encode` applies the letters policy first and adds special tokens.
"""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from operator import index
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, clean_letters
from dnabert2_jax.models import shipped_model
from dnabert2_jax.storage.atomic import NotWritten, write_bytes
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.paths import StrPath, as_path, make_directory
from dnabert2_jax.tokenizer.special import NUM_SPECIAL, SPECIAL_TOKENS, UNK, with_template


class Reader(Protocol):
    """Makes a tokenizer from a file's content; ``source`` is the file's name, for error messages."""

    def __call__(self, content: bytes, /, *, source: str) -> "Tokenizer":
        """Read the content, or raise UserError."""
        ...


_MOST_THREADS, _BASES_A_THREAD = 8, 500_000

_ONLY_BASES = re.compile(f"[{BASES}]*")

readers: dict[str, Reader] = {}
"""The reader for each kind of file, by file name; filled by ``tokenizer/loading.py``."""


class Tokenizer(ABC):
    """DNA to token ids and back; ids 0-4 are [UNK] [CLS] [SEP] [PAD] [MASK] in every tokenizer.

    Args:
        pieces: the text of every id other than the special tokens.
        content: what :meth:`save` writes.

    Attributes:
        file_name: name of its file.
        pieces: the text of every id, special tokens included.
        piece_lengths: bases that each id advances by: 0 for [CLS], [SEP], [PAD] and [MASK], 1 for [UNK]. [vocab_size].
        sha256: SHA-256 hex digest of the file that :meth:`save` writes.
    """

    file_name: ClassVar[str]
    pieces: tuple[str, ...]
    piece_lengths: NDArray[np.int32]
    sha256: str

    def __init__(self, pieces: Sequence[str], content: bytes) -> None:
        self.pieces = (*SPECIAL_TOKENS, *pieces)
        self.piece_lengths = np.array([0] * NUM_SPECIAL + [len(piece) for piece in pieces], np.int32)
        self.piece_lengths[UNK] = 1
        self.piece_lengths.flags.writeable = False
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._content = content

    @staticmethod
    def load(path: StrPath) -> "Tokenizer":
        """Read a tokenizer of any kind; for this, import the class from ``tokenizer.loading``, which registers all kinds.

        Args:
            path: ``tokenizer.model`` (BPE), ``tokenizer.json`` (BPE as written by Hugging Face libraries, including the file
                of the released DNABERT-2) or ``kmer_tokenizer.json``; or a directory that holds one of these;
                or the name of a model that ships with the package.

        Raises:
            UserError: the file is missing or damaged, or describes a tokenizer that this package cannot reproduce exactly;
                or a directory holds several different tokenizers.
        """
        path = shipped_model(path) or local_copy(path)
        candidates = [path / name for name in readers] if path.is_dir() else [path]
        files = [candidate for candidate in candidates if candidate.is_file()]
        if not files:
            raise UserError(
                f"{candidates[0]}: no such file; a tokenizer is one of {', '.join(readers)}, or a directory that holds one; "
                "train one with `dnabert2 tokenizer train`"
            )
        found = []
        for file in files:
            reader = readers.get(file.name) or readers["tokenizer.json" if file.suffix == ".json" else "tokenizer.model"]
            found.append(reader(file.read_bytes(), source=str(file)))
            if found[-1].pieces != found[0].pieces:
                raise UserError(
                    f"{path} holds two different tokenizers, {files[0].name} and {file.name}; name one of the two files"
                )
        return found[0]

    def save(self, directory: StrPath) -> Path:
        """Write the tokenizer's file into ``directory``, which is created if necessary, and return the file's path.

        Raises:
            UserError: it cannot be written.
        """
        return write_file(as_path(directory) / self.file_name, self._content)

    def save_hugging_face(self, directory: str | Path) -> Path:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, for Hugging Face libraries, into ``directory``.

        Raises:
            UserError: they cannot be written, or cannot represent this tokenizer.
        """
        raise UserError(
            "a tokenizer of k-mers cannot be written as tokenizer.json, which has none; use a byte-pair tokenizer"
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.pieces)

    @abstractmethod
    def encode_raw_batch(self, sequences: Sequence[str], *, num_threads: int = 1) -> list[NDArray[np.int32]]:
        """The ids of sequences taken as is, without special tokens: the fast path for pretraining.

        Args:
            sequences: upper-case A, C, G and T; how other characters are read depends on the tokenizer.
            num_threads: cores to use if the tokenizer can use several, 1 or more.

        Returns:
            An array of shape [tokens] for each sequence.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Ids back to sequence: unknown bases become N, special tokens other than [UNK] are skipped.

        Raises:
            UserError: an id outside the vocabulary.
        """

    def token_bases(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
        """Number of bases that each token of a row represents, [tokens]; the cumulative sum maps tokens to bases.

        They add up to the bases of the sequence (of both sequences of a pair): each base belongs to one token.
        """
        return self.piece_lengths[np.asarray(ids, np.int64)]

    def encode_raw(self, sequence: str) -> list[int]:
        """The ids of one sequence taken as is, without special tokens; see :meth:`encode_raw_batch`."""
        return self.encode_raw_batch([sequence])[0].tolist()

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """``[CLS] text [SEP]`` or ``[CLS] text [SEP] pair [SEP]`` as ids.

        Lower case is treated as soft-masking and upper-cased; IUPAC codes are unknown bases. To count the changes, call
        :func:`~dnabert2_jax.genome.letters.clean_letters` first.

        Raises:
            UserError: a letter that is neither a base nor an IUPAC code; the message names argument and position.
        """
        ids_a = self.encode_raw(_clean(text, "text"))
        ids_b = None if pair is None else self.encode_raw(_clean(pair, "pair"))
        return with_template(ids_a, ids_b).tolist()

    def encode_batch(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, num_threads: int | None = None
    ) -> list[list[int]]:
        """:meth:`encode` for many rows.

        Args:
            texts: the (first) sequences.
            pairs: the second sequences, as many as there are texts.
            num_threads: as for :meth:`encode_raw_batch`; by default all cores of this process if the batch is worth it.

        Raises:
            UserError: a forbidden letter (the message names argument, row and position), unequal numbers of rows, or
                ``num_threads`` below 1.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"texts has {len(texts)} rows and pairs {len(pairs)}; give one pair for each text")
        clean_a = [_clean(text, f"texts[{row}]") for row, text in enumerate(texts)]
        clean_b = [_clean(text, f"pairs[{row}]") for row, text in enumerate(pairs or ())]
        if num_threads is not None and num_threads < 1:
            raise UserError(f"num_threads is {num_threads}; accepted is 1 or more")
        if num_threads is None:
            num_threads = worthwhile_threads(sum(map(len, clean_a)) + sum(map(len, clean_b)))
        ids_a = self.encode_raw_batch(clean_a, num_threads=num_threads)
        ids_b = [None] * len(ids_a) if pairs is None else self.encode_raw_batch(clean_b, num_threads=num_threads)
        return [with_template(a, b).tolist() for a, b in zip(ids_a, ids_b, strict=True)]

    def _checked(self, ids: Iterable[int]) -> NDArray[np.int64]:
        """``ids`` as an array, after checking their range."""
        array = np.fromiter(map(index, ids), np.int64)
        outside = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if outside.size:
            at = outside[0]
            raise UserError(f"ids[{at}] is {array[at]}; accepted are 0 to {self.vocab_size - 1}")
        return array


def worthwhile_threads(bases: int) -> int:
    """How many cores so many bases keep busy for long enough (some 10 ms) to be worth starting threads."""
    # The cores that a scheduler gave this process, where the system can say; a cluster's node has more.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores, bases // _BASES_A_THREAD))


def write_file(file: Path, content: bytes) -> Path:
    """Write one file of a tokenizer atomically, in a directory that is created if necessary.

    Raises:
        UserError: it cannot be written.
    """
    try:
        make_directory(file.parent)
    except OSError as error:
        raise NotWritten(file, error) from error
    return write_bytes(file, content)


def _clean(text: str, argument: str) -> str:
    if _ONLY_BASES.fullmatch(text):
        return text
    return clean_letters(text, source="encode", record=argument)[0].tobytes().decode("ascii")
