"""The ``dnabert2`` command."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dnabert2_jax.config import PrecisionOption
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar, console, remark
from dnabert2_jax.tokenizer.letters import Ambiguous

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DNABERT-2 in JAX: pretrain, fine-tune and use a DNA language model.",
)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train and inspect tokenizers.")
corpus_app = typer.Typer(no_args_is_help=True, help="Build and inspect corpora.")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(corpus_app, name="corpus")

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of the run; see configs/.")]
WorkdirOption = Annotated[Path, typer.Option("--workdir", help="The run's directory; the same one again goes on.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key of the run; may be given many times.")
]

# Heavy imports (jax, flax, orbax) stay inside the commands: `dnabert2 --help` answers at once.


@tokenizer_app.command(
    "train",
    epilog="Example: dnabert2 tokenizer train --corpus runs/corpus --out runs/tokenizer --vocab-size 4096",
)
def tokenizer_train(
    corpus: Annotated[Path, typer.Option(help="Corpus directory to learn from (training split only).")],
    out: Annotated[Path, typer.Option(help="Directory for tokenizer.model.")],
    vocab_size: Annotated[int, typer.Option(help="Token ids, the 5 special ones and A C G T included.")] = 4096,
    longest_piece: Annotated[int, typer.Option(help="Longest piece, in bases.")] = 32,
    sample_bases: Annotated[int, typer.Option(help="Bases to learn from; about 40 bytes of memory each.")] = 20_000_000,
    seed: Annotated[int, typer.Option(help="Chooses the sample.")] = 0,
) -> None:
    """Train a BPE tokenizer on a sample of a corpus."""
    from dnabert2_jax.genome.corpus import Corpus
    from dnabert2_jax.tokenizer.training import SENTENCE_BASES, sample_corpus, train_bpe

    sample = sample_corpus(Corpus.open(corpus), sample_bases=sample_bases, window_bases=SENTENCE_BASES, seed=seed)
    tokenizer = train_bpe(sample, vocab_size=vocab_size, max_piece_length=longest_piece)
    file = tokenizer.save(out)
    longest = max(tokenizer.pieces[5:], key=len)
    remark(f"{tokenizer.vocab_size:,} pieces; the longest is {longest} ({len(longest)} bases)")
    print(f"saved {file}")


@corpus_app.command(
    "build",
    epilog="Example: dnabert2 corpus build --out runs/corpus yeast=chrI.fa.gz yeast=chrII.fa.gz ecoli=K12.fasta",
)
def corpus_build(
    fasta: Annotated[
        list[str],
        typer.Argument(
            metavar="[SPECIES=]FASTA...", help="FASTA files, plain or compressed; the species' name, or the file's."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Corpus directory to make.")],
    ambiguous: Annotated[
        Ambiguous, typer.Option(help="N and IUPAC letters: 'split' windows there, or keep them as [UNK] ('unk').")
    ] = ("split"),
    validation_fraction: Annotated[float, typer.Option(help="Share of each species held out, in blocks.")] = 0.02,
    validation_block: Annotated[int, typer.Option(help="Bases of a held-out block.")] = 10_000,
    min_contig: Annotated[int, typer.Option(help="Shorter contigs are skipped, and counted.")] = 100,
) -> None:
    """Pack FASTA files into a memory-mapped corpus: two bits a base, held-out blocks chosen, everything changed counted."""
    from dnabert2_jax.genome.build import SpeciesSource, build_corpus

    files: dict[str, list[Path]] = {}
    for argument in fasta:
        name, equals, path = argument.rpartition("=")
        if equals and not name:
            raise UserError(f"{argument}: the species before '=' has no name; accepted is SPECIES=FASTA or FASTA")
        files.setdefault(name or Path(path).name.split(".")[0], []).append(Path(path))
    species = [SpeciesSource(name, paths) for name, paths in files.items()]
    with ProgressBar("reading species", len(species)) as bar:
        seen: set[str] = set()

        def progress(name: str, bases: int) -> None:
            bar.advance(0 if name in seen else 1, f"{name}  {bases / 1e6:,.1f} Mb")
            seen.add(name)

        corpus = build_corpus(
            species,
            out,
            ambiguous=ambiguous,
            validation_fraction=validation_fraction,
            validation_block=validation_block,
            min_contig=min_contig,
            progress=progress,
        )
    _print_species(corpus)
    print(f"saved {out}")


def _print_species(corpus: Any) -> None:
    from rich.table import Table

    table = Table("species", "contigs", "bases", "train", "validation", "lower case", "ambiguous", "skipped contigs")
    for species in corpus.species:
        skipped = f"{species.short_contigs + species.empty_records:,}"
        numbers = (species.contigs, species.bases, species.train_bases, species.validation_bases, species.lower_case)
        table.add_row(species.name, *(f"{n:,}" for n in numbers), f"{sum(species.ambiguous.values()):,}", skipped)
    console.print(table)


@app.command(
    epilog="Example: dnabert2 pretrain --config configs/pretrain_small.toml --workdir runs/pretrain "
    "--set data.corpus=runs/corpus"
)
def pretrain(workdir: WorkdirOption, config: Config = None, set_: Set = None) -> None:
    """Pretrain an encoder by masked language modelling. Started again with the same command, a killed run goes on."""
    from dnabert2_jax.runs import PretrainRun, load_run

    run = load_run(PretrainRun, config, set_ or ())
    from dnabert2_jax.training.pretraining import pretrain as pretrain_run

    model = pretrain_run(run, workdir)
    scores = model.provenance["metrics"]
    remark(
        f"held-out loss {scores['loss']:.4f} nats a token, perplexity {scores['perplexity']:.1f}, "
        f"masked accuracy {scores['masked_accuracy']:.3f}"
    )
    print(f"saved {model.path}")


@app.command(
    epilog="Example: dnabert2 finetune --config configs/finetune.toml --workdir runs/promoters "
    "--set model.path=runs/pretrain/model"
)
def finetune(workdir: WorkdirOption, config: Config = None, set_: Set = None) -> None:
    """Fine-tune a classifier on tables, fully or with a LoRA adapter. Started again, a killed run goes on."""
    from dnabert2_jax.runs import FinetuneRun, load_run

    run = load_run(FinetuneRun, config, set_ or ())
    from dnabert2_jax.training.finetuning import finetune as finetune_run

    result = finetune_run(run, workdir)
    test = result.test
    remark(
        f"test MCC {test['mcc']:.4f}  macro F1 {test['macro_f1']:.4f}  accuracy {test['accuracy']:.4f}  ({test['n']:,} rows)"
    )
    if test["collapsed"]:
        remark(
            "every test row was predicted as the same class: the run collapsed; try another seed or a lower learning rate"
        )
    if result.adapter:
        remark(f"adapter alone in {result.adapter}; the model below has it merged")
    print(f"saved {result.model}, scores in {workdir / 'scores.json'}")


@app.command(epilog="Example: dnabert2 evaluate --model runs/promoters/model --data test.csv --out runs/test_scores.json")
def evaluate(
    model: Annotated[Path, typer.Option(help="Classifier directory, or adapter directory.")],
    data: Annotated[Path, typer.Option(help="Table with a header: sequence,label or sequence1,sequence2,label.")],
    out: Annotated[Path, typer.Option(help="JSON file for the scores.")],
    base: Annotated[Path | None, typer.Option(help="The adapter's base, if it is not where the adapter says.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longer rows are cut, counted and reported.")] = 512,
    precision: Annotated[PrecisionOption, typer.Option(help="auto is bfloat16 on GPU and TPU, float32 on CPU.")] = "auto",
) -> None:
    """Score a classifier on a labelled table: MCC, macro F1, accuracy, AUROC and the confusion matrix."""
    from dnabert2_jax.data.tables import read_table
    from dnabert2_jax.evaluation.metrics import classification_metrics, save_metrics
    from dnabert2_jax.inference.classify import Classifier
    from dnabert2_jax.training.start import resolve_compute

    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no directory {out.parent}; make it first")
    table = read_table(data)
    classifier = Classifier.load(model, resolve_compute(precision), base)
    probabilities = classifier.score(table, batch_size=batch_size, max_tokens=max_tokens)
    scores = classification_metrics(classifier.labels.encode(table), probabilities, classifier.labels.names)
    save_metrics(out, scores)
    auroc = "undefined" if scores["auroc"] is None else f"{scores['auroc']:.4f}"
    remark(
        f"MCC {scores['mcc']:.4f}  macro F1 {scores['macro_f1']:.4f}  accuracy {scores['accuracy']:.4f}  AUROC {auroc}  "
        f"({scores['n']:,} rows)"
    )
    print(f"saved {out}")


@app.command(epilog="Example: dnabert2 quickstart --workdir runs/quickstart")
def quickstart(
    workdir: Annotated[Path, typer.Option(help="Directory for everything that is made.")] = Path("runs/quickstart"),
) -> None:
    """Run the main job on real yeast DNA in minutes: tokenizer, corpus, pretraining, fine-tuning (full and LoRA), scores."""
    from dnabert2_jax.quickstart import quickstart as run_quickstart

    run_quickstart(workdir)


def main() -> NoReturn:
    """Run the command line: a user's error is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(_run(app))


def _run(command: Callable[[], Any]) -> int:
    try:
        command()
    except UserError as error:
        print(f"dnabert2: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dnabert2: interrupted", file=sys.stderr)
        return 130
    return 0
