"""Make tests/compatibility/v0_1.tar.gz: directories, checkpoints and runs as written by version 0.1.

Run it with the interpreter of a checkout of that version (commit b6cb727, the last one before the packages were
rearranged), from the root of that checkout:

    PYTHONPATH=. .venv/bin/python PATH/TO/tools/make_compatibility_files.py PATH/TO/tests/compatibility/v0_1.tar.gz

The archive is part of the repository and is not regenerated: its whole point is that the old code wrote it. Paths in it are
relative to its root, so its runs can be resumed from the directory where it is unpacked.

    corpus/ bpe/ kmer/ base/          a corpus, two tokenizers, and a masked language model with random weights
    train.csv dev.csv test.csv        a task with two classes
    pretrain.toml full.toml lora.toml
    finished/{pretrain,full,lora}/    the final state of these runs
    halfway/{pretrain,full,lora}/     the same runs, stopped right after a checkpoint
"""

import os
import random
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dnabert2_jax.model_directory import SavedModel, make_provenance, save_model
from dnabert2_jax.runs import FinetuneRun, PretrainRun, load_run
from dnabert2_jax.training.finetuning import finetune
from dnabert2_jax.training.pretraining import pretrain

from dnabert2_jax.config import EncoderConfig
from dnabert2_jax.genome import SpeciesSource, build_corpus
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.training.checkpoint import Checkpoints

PRETRAIN = """command = "pretrain"
seed = 1
[model]
path = "base"
precision = "float32"
[data]
corpus = "corpus"
tokens_per_row = 16
validation_rows = 16
[optimizer]
learning_rate = 5e-3
warmup_steps = 4
weight_decay = 0.01
[training]
steps = 12
batch_size = 8
evaluate_every = 6
save_every = 4
log_every = 1
keep_checkpoints = 1
[mesh]
data = 1
"""

FINETUNE = """command = "finetune"
seed = 1
[model]
path = "base"
precision = "float32"
[data]
train = "train.csv"
dev = "dev.csv"
test = "test.csv"
[optimizer]
learning_rate = 1e-2
warmup_steps = 2
[training]
method = "full"
epochs = 4
batch_size = 8
padded_lengths = 1
[mesh]
data = 1
"""

LORA = (
    FINETUNE.replace('"full"', '"lora"').replace("padded_lengths", 'batching = "packed"\npadded_lengths')
    + "[lora]\nrank = 2\n"
)

STOP_AFTER_SAVES = 2
NOT_KEPT = ("tensorboard", "report.html", "pictures")


class Stop(Exception):
    """Raised where a kill would strike."""


def dna(bases: int, seed: int, weights: tuple[int, ...] = (1, 1, 1, 1)) -> str:
    """Random bases; unlike numpy's generators, this one does not change between versions."""
    return "".join(random.Random(seed).choices("ACGT", weights, k=bases))


def make_inputs() -> None:
    """Corpus, tokenizers, base, tables and TOML files."""
    species = []
    for number, name in enumerate(("first", "second")):
        Path(f"{name}.fa").write_text(f">chr\n{dna(4000, number)}\n")
        species.append(SpeciesSource(name, [Path(f"{name}.fa")]))
    build_corpus(species, Path("corpus"), validation_fraction=0.1, validation_block=200)
    for number in range(2):
        Path(("first.fa", "second.fa")[number]).unlink()
    tokenizer = train_bpe([dna(20_000, 2)], vocab_size=64)
    for directory, one in (("bpe", tokenizer), ("kmer", KmerTokenizer(k=3, stride=1))):
        one.save(Path(directory))
    config = EncoderConfig(vocab_size=64, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    provenance = make_provenance(["test"], run_config={}, parents={}, metrics={})
    params = masked_lm(config).init(0)
    save_model(
        "base", SavedModel(kind="masked_lm", config=config, params=params, tokenizer=tokenizer, provenance=provenance)
    )
    for seed, (split, rows) in enumerate((("train", 48), ("dev", 24), ("test", 24))):
        lines = ["sequence,label"]
        for row in range(rows):
            label, weights = (("plain", (1, 1, 1, 1)), ("rich", (1, 4, 4, 1)))[row % 2]
            lines.append(f"{dna(24 + row % 16, 1000 * seed + row, weights)},{label}")
        Path(f"{split}.csv").write_text("\n".join(lines) + "\n")
    for name, text in (("pretrain", PRETRAIN), ("full", FINETUNE), ("lora", LORA)):
        Path(f"{name}.toml").write_text(text)


def run_all(out: Path, stop: bool) -> None:
    """Run the three runs in ``out``, to the end or to a checkpoint halfway."""
    save, saves = Checkpoints.save, 0

    def save_and_stop(self: Checkpoints, *args: Any) -> None:
        nonlocal saves
        save(self, *args)
        saves += 1
        if stop and saves == STOP_AFTER_SAVES:
            self.wait()
            raise Stop

    runs = (("pretrain", PretrainRun, pretrain), ("full", FinetuneRun, finetune), ("lora", FinetuneRun, finetune))
    for name, kind, call in runs:
        saves = 0
        with patch.object(Checkpoints, "save", save_and_stop):
            try:
                call(load_run(kind, Path(f"{name}.toml")), out / name)
            except Stop:
                print(f"{out / name}: stopped")
        for unwanted in NOT_KEPT:
            path = out / name / unwanted
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def main(archive: Path) -> None:
    """Make everything in a temporary directory and pack it."""
    archive = archive.resolve()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        make_inputs()
        run_all(Path("finished"), stop=False)
        run_all(Path("halfway"), stop=True)
        for checkpoints in Path("finished").glob("*/checkpoints"):
            shutil.rmtree(checkpoints)
        with tarfile.open(archive, "w:gz") as file:
            for path in sorted(Path().rglob("*")):
                print(path, path.stat().st_size)
                file.add(path, recursive=False)
        os.chdir("/")
    print(f"{archive}: {archive.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
