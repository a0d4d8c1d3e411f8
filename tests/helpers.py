"""Tiny real things for tests of the training path: a corpus, a tokenizer, models, a task, and the command line."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.config.sections import MaskingConfig, MeshOptions
from dnabert2_jax.data.masking import mask_rows
from dnabert2_jax.draws import record_seeds
from dnabert2_jax.genome import Corpus, SpeciesSource, build_corpus
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.parallel.layout import Layout, spread_rows
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.special import CLS, NUM_SPECIAL, PAD, SEP
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.types import ClassificationBatch, MlmBatch, TokenBatch, Tree
from tests.genome.helpers import random_dna, write_fasta

CLASSES = ("plain", "rich")
"""Labels of the tiny task: a class of uniform bases, and one rich in G and C."""


@cache
def tiny_tokenizer() -> Tokenizer:
    return train_bpe([random_dna(20_000, 0)], vocab_size=64)


def tiny_config(**changes: Any) -> EncoderConfig:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return EncoderConfig(**{**sizes, **changes})


def tiny_model(path: Path, seed: int = 0, **changes: Any) -> SavedModel:
    """A masked language model with random weights, saved."""
    config = tiny_config(**changes)
    provenance = make_provenance(["test"], run_config={}, parents={}, metrics={})
    return save_model(
        path,
        SavedModel(
            kind="masked_lm",
            config=config,
            params=masked_lm(config).init(seed),
            tokenizer=tiny_tokenizer(),
            provenance=provenance,
        ),
    )


def overflowing_model(model: Path, path: Path) -> SavedModel:
    """A model whose weights are finite and whose activations are not."""
    saved = load_model(model)
    return save_model(path, replace(saved, params=jax.tree.map(lambda x: x * np.float32(1e30), saved.params)))


def tiny_corpus(path: Path, seed: int = 0, bases: int = 20_000) -> Corpus:
    """Two species of one contig each, with held-out blocks."""
    path.mkdir(parents=True, exist_ok=True)
    sources = [
        SpeciesSource(name, [write_fasta(path / f"{name}.fa", {"chr": random_dna(bases, 10 * seed + n)})])
        for n, name in enumerate(("first", "second"))
    ]
    return build_corpus(sources, path / "corpus", validation_fraction=0.1, validation_block=500)


def tiny_rows(rows: int, seed: int, bases: int = 40) -> list[tuple[str, str]]:
    """(sequence, label) of :data:`CLASSES`, half each, of 60 to 100 % of ``bases``: easy to learn from composition."""
    rng = np.random.default_rng(seed)
    shares = {"plain": [0.25] * 4, "rich": [0.1, 0.4, 0.4, 0.1]}
    labels = [CLASSES[row % 2] for row in range(rows)]
    lengths = rng.integers(int(0.6 * bases), bases + 1, rows)
    return [("".join(rng.choice(list("ACGT"), n, p=shares[label])), label) for n, label in zip(lengths, labels, strict=True)]


def write_table(path: Path, rows: Sequence[tuple[str, ...]], header: str = "sequence,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([header, *(",".join(row) for row in rows)]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def tiny_task(path: Path, train: int = 48, dev: int = 24, test: int = 30) -> dict[str, str]:
    """The three tables of a task; the ``data`` section of a run."""
    counts = {"train": train, "dev": dev, "test": test}
    return {
        split: str(write_table(path / f"{split}.csv", tiny_rows(rows, seed=n)))
        for n, (split, rows) in enumerate(counts.items())
    }


def with_sections(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A run with some sections changed: dicts are merged one level deep."""
    merged = dict(content)
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def pretrain_content(model_path: Path, corpus: Path, **changes: Any) -> dict[str, Any]:
    content = {
        "seed": 1,
        "model": {"path": str(model_path), "precision": "float32"},
        "data": {"corpus": str(corpus), "tokens_per_row": 16, "validation_rows": 16},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 4, "weight_decay": 0.01},
        "training": {"steps": 12, "batch_size": 8, "evaluate_every": 6, "save_every": 4, "log_every": 1},
        "mesh": {"data": 1},  # of the eight devices that every test has
    }
    return with_sections(content, changes)


def finetune_content(model_path: Path, tables: dict[str, str], **changes: Any) -> dict[str, Any]:
    content = {
        "seed": 1,
        "model": {"path": str(model_path), "precision": "float32"},
        "data": tables,
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "training": {"epochs": 4, "batch_size": 8, "padded_lengths": 1},
        "mesh": {"data": 1},  # of the eight devices that every test has
        "lora": {"rank": 2},
    }
    return with_sections(content, changes)


def pretrain_run(*args: Any, **changes: Any) -> PretrainRun:
    return parse_run(PretrainRun, pretrain_content(*args, **changes), "test")


def finetune_run(*args: Any, **changes: Any) -> FinetuneRun:
    return parse_run(FinetuneRun, finetune_content(*args, **changes), "test")


def write_run(path: Path, command: str, content: dict[str, Any]) -> Path:
    """A run as a TOML file. JSON's strings, numbers, booleans and lists are TOML's."""
    lines = [f'command = "{command}"', f"seed = {content['seed']}"]
    for section, values in content.items():
        if isinstance(values, dict):
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


TIMINGS = {"tokens_per_second", "input_wait", "host_memory_bytes", "seconds"}


def untimed_lines(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without what differs from machine to machine."""
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in MetricsLog.read(workdir)]


def one_device(trainable: Tree) -> Layout:
    """A mesh of one device, for parameters that may be abstract."""
    return spread_rows(MeshOptions(data=1), 1, trainable)


def random_tokens(lengths: list[int], width: int, seed: int = 0) -> TokenBatch:
    """Rows of random pieces between [CLS] and [SEP], padded to ``width``."""
    rng = np.random.default_rng(seed)
    ids = np.full((len(lengths), width), PAD, np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [CLS, *rng.integers(NUM_SPECIAL, 64, length - 2), SEP]
    segments = (ids != PAD).astype(np.int32)
    return TokenBatch(ids, segments, np.zeros_like(ids))


def mlm_batch(lengths: list[int], width: int = 16, seed: int = 0, record: int = 0) -> MlmBatch:
    tokens = random_tokens(lengths, width, seed)
    records = np.arange(len(lengths)) + record
    return mask_rows(tokens, MaskingConfig(), seed=seed, records=records, vocab_size=64)


def classification_batch(lengths: list[int], width: int = 16, seed: int = 0, fill: int = 0) -> ClassificationBatch:
    """Random rows of two classes; the last ``fill`` of them only fill the batch."""
    rows = np.arange(len(lengths), dtype=np.int32)
    weights = (rows < len(rows) - fill).astype(np.float32)
    return ClassificationBatch(random_tokens(lengths, width, seed), rows % 2, weights, record_seeds(seed, rows), rows)
