"""k-mer tokenizers, the baselines for BPE; numpy on a whole batch at once.

- Stride 1: every k-mer of the sequence, overlapping, as in DNABERT (Ji et al. 2021). n bases give n - k + 1 tokens.
- Stride k: consecutive k-mers, as in the Nucleotide Transformer (Dalla-Torre et al. 2023). They are cut from the start of
  every run of bases; each base left over at its end, and every N, is a token of its own.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import NUM_SPECIAL, UNK

SHORTEST, LONGEST = 3, 6

_N, _OTHER = len(BASES), len(BASES) + 1
_CODE = np.full(256, _OTHER, np.uint8)
_CODE[np.frombuffer(f"{BASES}N".encode(), np.uint8)] = np.arange(_N + 1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["kmer"]
    k: int = Field(ge=SHORTEST, le=LONGEST)
    stride: int = Field(ge=1)


class KmerTokenizer(Tokenizer):
    """k-mers in alphabetical order of their letters, after the special tokens and, with stride k, A C G T N.

    If k-mers overlap, one with any character that is not an upper-case base is [UNK]. If they do not, such a character is a
    token of its own: N, or [UNK] for any other character.

    Attributes:
        k: bases per k-mer.
        stride: bases from one k-mer to the next: 1 or k.
    """

    file_name = "kmer_tokenizer.json"

    def __init__(self, k: int, stride: int) -> None:
        """Make the tokenizer; nothing is trained.

        Args:
            k: bases per k-mer, 3 to 6.
            stride: 1 for overlapping k-mers, k for consecutive ones.

        Raises:
            UserError: any other value.
        """
        if not SHORTEST <= k <= LONGEST:
            raise UserError(f"k is {k}; accepted are {SHORTEST} to {LONGEST} bases")
        if stride not in (1, k):
            raise UserError(f"stride is {stride}; accepted are 1 (overlapping k-mers) and {k} (k, consecutive)")
        self.k, self.stride = k, stride
        self.overlapping = stride == 1
        kmers = ["".join(letters) for letters in product(BASES, repeat=k)]
        content = json.dumps({"kind": "kmer", "k": k, "stride": stride}) + "\n"
        super().__init__(kmers if self.overlapping else [*BASES, "N", *kmers], content.encode())
        if self.overlapping:
            self.piece_lengths = np.minimum(self.piece_lengths, 1)
            self.piece_lengths.flags.writeable = False
        # A k-mer's number has a digit for each of its characters, the fifth digit for anything that is not a base.
        digits = np.indices((_N + 1,) * k).reshape(k, -1)
        known = (digits < _N).all(axis=0)
        self._id_of_number = np.full(digits.shape[1], UNK, np.int32)
        self._id_of_number[known] = np.arange(self.vocab_size - len(kmers), self.vocab_size)

    @classmethod
    def from_json(cls, content: bytes, *, source: str) -> "KmerTokenizer":
        """Read a ``kmer_tokenizer.json``.

        Args:
            content: content of the file.
            source: its name, for error messages.

        Raises:
            UserError: the file is damaged or of another kind.
        """
        try:
            file = _File.model_validate_json(content)
            return cls(file.k, file.stride)
        except (ValidationError, UserError) as error:
            found = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
            raise UserError(
                f"{source}: not a k-mer tokenizer ({found}); recreate it with `dnabert2 tokenizer kmer`"
            ) from error

    def encode_raw_batch(self, sequences: Sequence[str], *, num_threads: int = 1) -> list[NDArray[np.int32]]:
        """The ids of sequences taken as is, without special tokens: the fast path for pretraining.

        Args:
            sequences: upper-case A, C, G and T; any other character, even white space, is an unknown base.
            num_threads: ignored; numpy processes the whole batch on one core.

        Returns:
            An array of shape [tokens] for each sequence.

        Raises:
            UserError: k-mers overlap and a nonempty sequence is shorter than k, so it would have no tokens.
        """
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        if self.overlapping and (short := np.flatnonzero((lengths > 0) & (lengths < self.k))).size:
            raise UserError(
                f"sequences[{short[0]}] has {lengths[short[0]]} bases, too few for an overlapping {self.k}-mer; "
                f"accepted are {self.k} or more: leave shorter sequences out, or choose another tokenizer"
            )
        # A character outside Latin-1 becomes a single "?", unknown like any other symbol.
        text = "".join(sequences).encode("latin-1", "replace")
        codes = _CODE[np.frombuffer(text, np.uint8)]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if self.overlapping:
            ids = self._kmer_ids(codes)
            return [ids[start : max(start, end - self.k + 1)] for start, end in zip(starts, ends, strict=True)]
        kept, ids = self._one_after_the_other(codes, starts[lengths > 0])
        before = np.concatenate([[0], np.cumsum(kept)])  # tokens before each base
        return [ids[before[start] : before[end]] for start, end in zip(starts, ends, strict=True)]

    def token_bases(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
        """Number of bases that each token of a row represents, [tokens]; they add up to the bases of the sequence.

        Each overlapping k-mer represents its first base, and the last one of a sequence all k of its bases.
        """
        array = np.asarray(ids, np.int64)
        bases = self.piece_lengths[array]
        if self.overlapping:
            bases[_sequences_in(array)[:, 1] - 1] = self.k
        return bases

    def decode(self, ids: Iterable[int]) -> str:
        """Ids back to sequence: bases in no known k-mer become N, special tokens other than [UNK] are skipped.

        Where overlapping k-mers contradict each other, as a model's predictions may, a base is taken from the k-mer that
        starts there, or else from the last one before it.

        Raises:
            UserError: an id outside the vocabulary.
        """
        array = self._checked(ids)
        if not self.overlapping:
            return "".join("N" if token == UNK else self.pieces[token] for token in array[_is_sequence(array)])
        return "".join(self._overlaid(array[start:end]) for start, end in _sequences_in(array))

    def _overlaid(self, ids: NDArray[np.int64]) -> str:
        """The sequence of overlapping k-mers (and [UNK] in place of some), k - 1 bases more than there are k-mers."""
        letters = np.full(len(ids) + self.k - 1, ord("N"), np.uint8)
        known = np.flatnonzero(ids != UNK)
        text = "".join(self.pieces[token] for token in ids[known]).encode()
        table = np.frombuffer(text, np.uint8).reshape(-1, self.k)
        for offset in reversed(range(self.k)):
            letters[known + offset] = table[:, offset]
        return letters.tobytes().decode()

    def _kmer_ids(self, codes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The id of the k-mer that starts at each position, [UNK] if it is not all bases. [positions - k + 1], or [0]."""
        count = max(0, len(codes) - self.k + 1)
        numbers = np.zeros(count, np.int32)
        for offset in range(self.k):
            numbers = numbers * (_N + 1) + np.minimum(codes[offset : offset + count], _N)
        return self._id_of_number[numbers]

    def _one_after_the_other(
        self, codes: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Whether a token starts at each base, [bases], and the ids of those tokens, [tokens].

        Args:
            codes: codes of all sequences, concatenated. [bases].
            starts: where each sequence starts.
        """
        base = codes < _N
        first = np.ones(len(codes), bool)
        first[1:] = base[1:] != base[:-1]
        first[starts] = True
        runs = np.flatnonzero(first)
        run_lengths = np.diff(runs, append=len(codes))
        position = np.arange(len(codes)) - np.repeat(runs, run_lengths)
        in_kmer = base & (position < np.repeat(run_lengths - run_lengths % self.k, run_lengths))
        starts_token = ~in_kmer | (position % self.k == 0)
        ids = np.where(codes == _OTHER, UNK, codes.astype(np.int32) + NUM_SPECIAL)
        at = np.flatnonzero(in_kmer & starts_token)
        ids[at] = self._kmer_ids(codes)[at]
        return starts_token, ids[starts_token]


def _is_sequence(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens represent bases: all but [CLS], [SEP], [PAD] and [MASK]."""
    return (ids == UNK) | (ids >= NUM_SPECIAL)


def _sequences_in(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start and end of each stretch of tokens that represent bases, [stretches, 2]."""
    return np.flatnonzero(np.diff(_is_sequence(ids), prepend=False, append=False)).reshape(-1, 2)
