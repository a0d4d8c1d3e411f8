"""Tiny genomes, models and files for the tests of variants."""

import re
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import base_classifier, masked_lm, sequence_classifier
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.variants.alleles import Allele
from dnabert2_jax.variants.fields import AlleleScores
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from dnabert2_jax.variants.spans import Ids, Span, find_spans
from tests.helpers import tiny_config, tiny_tokenizer

LABELS = ("coding+", "coding-", "none")
FLANK = 24
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


class Contigs(dict[str, str]):
    """A genome in memory."""

    @property
    def lengths(self) -> dict[str, int]:
        return {name: len(sequence) for name, sequence in self.items()}

    def fetch(self, contig: str, start: int, end: int) -> str:
        assert 0 <= start <= end <= len(self[contig])
        return self[contig][start:end]


def reverse(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


def random_mlm(seed: int = 3, tokenizer=None) -> InferenceModel:
    tokenizer = tokenizer or tiny_tokenizer()
    config = tiny_config(initializer_range=0.4, vocab_size=tokenizer.vocab_size)
    params = masked_lm(config).init(seed)
    return opened(SavedModel(kind="masked_lm", config=config, params=params, tokenizer=tokenizer, provenance={}))


def random_classifier() -> InferenceModel:
    config = tiny_config(initializer_range=0.3)
    params = sequence_classifier(config, len(LABELS)).init(4)
    return opened(
        SavedModel(kind="classifier", config=config, params=params, tokenizer=tiny_tokenizer(), labels=LABELS, provenance={})
    )


def random_labeler() -> InferenceModel:
    """A model that finds splice sites everywhere."""
    config = tiny_config(initializer_range=0.5)
    return opened(
        SavedModel(
            kind="base_classifier",
            config=config,
            params=base_classifier(config, 3).init(1),
            tokenizer=tiny_tokenizer(),
            labels=("background", "acceptor", "donor"),
            head=HeadConfig(task="per_base", window=128),
            provenance={},
        )
    )


def constant_mlm(bias: np.ndarray) -> InferenceModel:
    """A model whose encoder and head are zero, so that its prediction is its decoder's bias wherever it looks."""
    saved = random_mlm().saved()
    params = jax.tree.map(np.zeros_like, saved.params)
    params["mlm"]["bias"] = bias.astype(np.float32)
    return opened(SavedModel(kind="masked_lm", config=saved.config, params=params, tokenizer=saved.tokenizer, provenance={}))


def opened(saved: SavedModel) -> InferenceModel:
    return InferenceModel.of_saved(Path("tiny"), saved, Compute())


def scored(model: InferenceModel, genome: Contigs, alleles: Sequence[tuple], **options) -> list[AlleleScores]:
    """Scores of (contig, position from 0, REF, ALT); one input at a time, so that few shapes are compiled."""
    how = ScoringOptions(**{"flank": FLANK, "batch_tokens": 1, **options})
    return VariantScorer(model, genome, how).score([Allele(*allele) for allele in alleles])


def llr(model: InferenceModel, genome: Contigs, *alleles: tuple, **options) -> list[float]:
    results = scored(model, genome, alleles, **{"scores": ("llr",), **options})
    assert [own.status for own in results] == ["ok"] * len(alleles)
    return [own.values["llr"] for own in results]


def with_allele(genome: str, position: int, ref: str, alt: str) -> Contigs:
    """The genome with ALT in place of REF."""
    assert genome[position : position + len(ref)] == ref
    return Contigs(c=genome[:position] + alt + genome[position + len(ref) :])


def other_base(base: str, step: int = 1) -> str:
    return "ACGT"[("ACGT".index(base) + step) % 4]


def without_ours(content: bytes) -> bytes:
    """An annotated VCF without what was added: header lines of our keys, and in INFO all from the first of our keys on."""
    lines = []
    for line in content.splitlines(keepends=True) if b"\r" not in content else re.split(rb"(?<=\n)", content):
        if line.startswith(b"##INFO=<ID=DB2_"):
            continue
        if not line.startswith(b"#") and line.strip():
            body = line.rstrip(b"\r\n")
            columns = body.split(b"\t", 8)
            info = columns[7]
            columns[7] = b"." if info.startswith(b"DB2_STATUS=") else info[: info.index(b";DB2_STATUS=")]
            line = b"\t".join(columns) + line[len(body) :]
        lines.append(line)
    return b"".join(lines)


def find_span(windows: Sequence[str], token_ids: Sequence[Ids], tokenizer: Tokenizer) -> Span | None:
    """The span of the alleles of one window."""
    return find_spans([windows], [token_ids], tokenizer)[0]
