"""The whole workflow on the yeast DNA that ships with the package, in minutes on two cores."""

import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from dnabert2_jax import sample_data
from dnabert2_jax.baselines.comparison import Baseline, score_baseline
from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.config.loading import parse_run
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.build import SpeciesSource, build_corpus
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.metrics.intervals import Intervals, confidence_intervals
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.reports.plots.scores import scores_with_intervals
from dnabert2_jax.reports.plots.style import png
from dnabert2_jax.storage.atomic import write_bytes, write_json
from dnabert2_jax.tokenizer.bpe import MODEL_FILE
from dnabert2_jax.tokenizer.training import SENTENCE_BASES, sample_corpus, train_bpe

VOCAB_SIZE = 256
SIZE = "1m"
SHIPPED = "small_5mer"
_SEED = 0


def quickstart(workdir: Path) -> None:
    """Corpus, tokenizer, pretraining, and fine-tuning from scratch and from pretrained encoders; a table and a picture.

    Rerun in the same directory to resume.

    Args:
        workdir: directory for all output.

    Raises:
        UserError: the directory cannot be used, or holds a run with other settings.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{workdir}: cannot create this directory ({error.strerror}); choose another --workdir") from error
    remark("1/6  corpus: chromosome I of three yeasts")
    corpus = _corpus(workdir / "corpus")
    remark("2/6  tokenizer")
    tokenizer = _tokenizer(corpus, workdir / "tokenizer")
    remark(
        "3/6  k-mer logistic regression: coding strand + / - or intergenic, 150 bases; two species train, the third tests"
    )
    first_row, baseline = _kmer_regression()
    rows = [first_row]
    remark("4/6  the encoder from scratch")
    scratch = _finetuning({"size": SIZE, "tokenizer": str(tokenizer)})
    rows.append(_row("(b) encoder from scratch", finetune(scratch, workdir / "scratch", baseline=baseline)))
    remark("5/6  masked-language-model pretraining")
    model = pretrain(_pretraining(corpus.path, tokenizer), workdir / "pretrain").path
    remark(f"6/6  fine-tuning of the encoder pretrained here, and of {SHIPPED}, which ships with the package")
    for name, path, pooling, directory in (
        ("(c) pretrained here", str(model), "auto", "full"),
        (f"(d) {SHIPPED}", SHIPPED, "mean", "shipped_full"),
    ):
        run = _finetuning({"path": path}, pooling)
        rows.append(_row(name, finetune(run, workdir / directory, baseline=baseline)))
    _show(rows)
    drawn = scores_with_intervals(
        [(row["model"], row["mcc"], *row["mcc_interval"]) for row in rows], "MCC on the test table"
    )
    print(f"saved {write_bytes(workdir / 'results.png', png(drawn))}")
    print(f"saved {write_json(workdir / 'results.json', rows)}")


def _corpus(out: Path) -> Corpus:
    if out.exists():
        return Corpus.open(out)
    species = [SpeciesSource(name, [file]) for name, file in sample_data.fasta_files().items()]
    return build_corpus(species, out, validation_fraction=0.05, validation_block=5_000)


def _tokenizer(corpus: Corpus, out: Path) -> Path:
    if not (out / MODEL_FILE).exists():
        sample = sample_corpus(corpus, sample_bases=2_000_000, window_bases=SENTENCE_BASES, seed=_SEED)
        train_bpe(sample, vocab_size=VOCAB_SIZE).save(out)
    return out


def _pretraining(corpus: Path, tokenizer: Path) -> PretrainRun:
    return parse_run(
        PretrainRun,
        {
            "seed": _SEED,
            "model": {"size": SIZE, "tokenizer": str(tokenizer), "remat": "full"},
            "data": {"corpus": str(corpus), "tokens_per_row": 64, "validation_rows": 256},
            "optimizer": {"learning_rate": 2e-3, "warmup_steps": 100, "weight_decay": 0.01},
            "training": {"steps": 500, "batch_size": 32, "evaluate_every": 250, "save_every": 250, "log_every": 25},
            "mesh": {"data": 1},  # so small a model gains nothing from more devices
        },
        "quickstart",
    )


def _finetuning(model: dict[str, Any], pooling: str = "auto") -> FinetuneRun:
    return parse_run(
        FinetuneRun,
        {
            "seed": _SEED,
            "model": {**model, "remat": "attention"},
            "data": {split: str(sample_data.table(split)) for split in ("train", "dev", "test")},
            "optimizer": {"learning_rate": 1e-3},
            "training": {"method": "full", "pooling": pooling, "epochs": 3, "padded_lengths": 2},
            "mesh": {"data": 1},
        },
        "quickstart",
    )


def _kmer_regression() -> tuple[dict[str, Any], Baseline]:
    """Its row of the table, and what the reports of the other rows compare with."""
    began = time.monotonic()
    splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
    kmer = KmerBaseline().fit(splits.train, splits.dev, splits.labels)
    baseline = score_baseline(kmer, splits, began)
    labels = splits.labels.encode(splits.test)
    intervals = confidence_intervals("single_label", labels, kmer.predict_proba(splits.test))
    row = {
        **_scores("(a) 1-5-mer regression", baseline["kmer"], intervals),
        "trained_parameters": kmer.num_parameters,
        "seconds": time.monotonic() - began,
    }
    return row, baseline


def _row(name: str, result: Finetuned) -> dict[str, Any]:
    return {
        **_scores(name, result.test, result.intervals),
        "trained_parameters": result.trained_parameters,
        "seconds": result.seconds,
    }


def _scores(name: str, scores: Scores, intervals: Intervals) -> dict[str, Any]:
    return {
        "model": name,
        "mcc": scores["mcc"],
        "mcc_interval": intervals["scores"]["mcc"],
        "macro_f1": scores["macro_f1"],
        "accuracy": scores["accuracy"],
    }


def _show(rows: list[dict[str, Any]]) -> None:
    grid = Grid(
        title="Coding strand of 150 bases: scores on S. cerevisiae, held out",
        caption="95% interval: bootstrap over test rows; trained: trainable parameters",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),  # fits 80 columns
    )
    for heading in ("model", "MCC", "95% interval", "macro F1", "trained", "seconds"):
        grid.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for row in rows:
        interval = "{:.3f}-{:.3f}".format(*row["mcc_interval"])
        scores = f"{row['mcc']:.3f}", interval, f"{row['macro_f1']:.3f}"
        grid.add_row(row["model"], *scores, f"{row['trained_parameters']:,}", f"{row['seconds']:.0f}")
    Console(highlight=False).print(grid)
