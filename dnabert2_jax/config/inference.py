"""Choices that commands and functions share; importing them loads nothing heavy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dnabert2_jax.errors import UserError

Pooling = Literal["mean", "cls", "max", "token", "base"]
"""What an embedding represents.

``mean`` and ``max`` are over the tokens of the sequence ([CLS], [SEP] and padding excluded), ``cls`` is the hidden state of
[CLS]; ``token`` gives one vector per token, ``base`` one per base, that of its token.
"""

PER_TOKEN: tuple[Pooling, ...] = ("token", "base")
"""Poolings that give many vectors per sequence."""

LongSequences = Literal["windows", "cut"]
"""What happens to a sequence with too many tokens: read in overlapping windows, or truncated."""

BadRecordPolicy = Literal["error", "skip"]
"""What happens to records that cannot be used: an error names them all, or they are left out and counted."""

DuplicateNames = Literal["error", "number"]
"""What happens to a record of a FASTA or FASTQ file with the name of an earlier one: an error, or a number is added, as in
``gene``, ``gene_2``, ``gene_3``."""

STANDARD_STREAM = "-"
"""In place of a file: standard input, or standard output."""


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a job, each computed by a process of its own: ``2/8``.

    Attributes:
        number: which, from 1.
        count: of how many.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def path(self, out: Path) -> Path:
        """Where this share of a file lies until it is merged: beside it, as ``NAME.2-of-8.csv``."""
        return out if str(out) == STANDARD_STREAM else out.with_name(f"{out.stem}.{self.number}-of-{self.count}{out.suffix}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``NUMBER/COUNT``.

        Raises:
            UserError: it is something else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard {text}: accepted is NUMBER/COUNT, from 1/COUNT to COUNT/COUNT, as in 2/8")
        return cls(int(found[1]), int(found[2]))


DivideBy = Literal["random", "group", "contig", "similarity"]
"""What a split of a table keeps together, besides equal sequences: nothing else, rows with the same value in a column, rows
of the same contig, or near copies."""

TrackStrand = Literal["+", "-", "both", "bed"]
"""The strand that a track reads: one of the two, each for itself, or the strand of each interval (``.`` is ``+``)."""

TrackValues = Literal["auto", "logp", "entropy", "logo"]
"""What a track of a masked language model holds.

``logp`` is the natural logarithm of the probability of the genome's base, ``entropy`` that of the four probabilities, in
bits, and ``logo`` four tracks whose heights are the probabilities times the information (2 bits minus the entropy). ``auto``
gives ``logp`` and ``entropy``; of a classifier, which has no other values, its classes.
"""

TrackFormat = Literal["bigwig", "bedgraph", "bed"]
"""The files of a track; ``bed`` has the bins of a class, or segments of a label, whose probability reaches a threshold."""

VariantScore = Literal["llr", "delta", "emb", "pll"]
"""What a variant is scored by: the log-ratio of the alleles' probabilities, the change of a prediction, the distance of
embeddings, or the pseudo-log-likelihood of the window."""

Strands = Literal["both", "+"]
"""Which strands are read: both, and the mean is taken, or the given one."""

RefMismatch = Literal["skip", "error"]
"""What happens to a variant whose REF is not the reference's: it is marked and not scored, or the job stops."""

ExplainMethod = Literal["ism", "ig", "saliency", "attention", "dependency"]
"""How an output is explained: by substituting every base, by integrated gradients, by one gradient, by attention, or by
which bases depend on which."""

Resolution = Literal["token", "base"]
"""What attends to what: tokens, [CLS] and [SEP] among them, or bases."""
