"""``dnabert2 tokenizer`` and ``dnabert2 corpus``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar, console, remark
from dnabert2_jax.tokenizer.letters import Ambiguous

tokenizer = typer.Typer(no_args_is_help=True, help="Train and inspect tokenizers.")
corpus = typer.Typer(no_args_is_help=True, help="Build and inspect corpora.")


@tokenizer.command(
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
    trained = train_bpe(sample, vocab_size=vocab_size, max_piece_length=longest_piece)
    file = trained.save(out)
    longest = max(trained.pieces[5:], key=len)
    remark(f"{trained.vocab_size:,} pieces; the longest is {longest} ({len(longest)} bases)")
    print(f"saved {file}")


@corpus.command(
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

        built = build_corpus(
            species,
            out,
            ambiguous=ambiguous,
            validation_fraction=validation_fraction,
            validation_block=validation_block,
            min_contig=min_contig,
            progress=progress,
        )
    _print_species(built)
    print(f"saved {out}")


def _print_species(corpus: Any) -> None:
    from rich.table import Table

    table = Table("species", "contigs", "bases", "train", "validation", "lower case", "ambiguous", "skipped contigs")
    for species in corpus.species:
        skipped = f"{species.short_contigs + species.empty_records:,}"
        numbers = (species.contigs, species.bases, species.train_bases, species.validation_bases, species.lower_case)
        table.add_row(species.name, *(f"{n:,}" for n in numbers), f"{sum(species.ambiguous.values()):,}", skipped)
    console.print(table)
