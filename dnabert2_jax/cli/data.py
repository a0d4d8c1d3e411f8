"""``dnabert2 tokenizer`` and ``dnabert2 corpus``."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dnabert2_jax.config.corpus import Ambiguous, CorpusConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar, console, remark

tokenizer = typer.Typer(no_args_is_help=True, help="Train, inspect and export tokenizers.")
corpus = typer.Typer(no_args_is_help=True, help="Build and inspect corpora.")


def results() -> Console:
    """Standard output for tables: as wide as the terminal, or wide enough not to shorten anything in a file or a pipe."""
    console = partial(Console, highlight=False, markup=False, emoji=False)
    return console() if console().is_terminal else console(width=200)


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


@tokenizer.command("kmer", epilog="Example: dnabert2 tokenizer kmer --k 6 --stride 1 --out runs/overlapping6")
def tokenizer_kmer(
    out: Annotated[Path, typer.Option(help="Directory for kmer_tokenizer.json.")],
    k: Annotated[int, typer.Option(help="Bases of a k-mer, 3 to 6.")] = 6,
    stride: Annotated[
        int | None, typer.Option(help="1: k-mers overlap, as in DNABERT; k: one after the other [default: k].")
    ] = None,
) -> None:
    """Write a k-mer tokenizer, to compare byte pairs with; it takes the place of a trained one in every run."""
    from dnabert2_jax.tokenizer.kmer import KmerTokenizer

    made = KmerTokenizer(k, k if stride is None else stride)
    file = made.save(out)
    remark(f"{made.vocab_size:,} ids")
    print(f"saved {file}")


@tokenizer.command("export", epilog="Example: dnabert2 tokenizer export runs/tokenizer --out runs/hugging_face")
def tokenizer_export(
    tokenizer: Annotated[Path, typer.Argument(help="Byte-pair tokenizer, or a model directory with one.")],
    out: Annotated[Path, typer.Option(help="Directory for tokenizer.json and tokenizer_config.json.")],
) -> None:
    """Write a byte-pair tokenizer for Hugging Face's libraries, which give the same ids with it."""
    from dnabert2_jax.tokenizer.loading import Tokenizer

    print(f"saved {Tokenizer.load(tokenizer).save_hugging_face(out)}")


@tokenizer.command(
    "encode",
    epilog="Example: dnabert2 tokenizer encode --tokenizer runs/tokenizer ACGTTGCATATA; or --fasta genes.fa > genes.tsv",
)
def tokenizer_encode(
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer (tokenizer.json, too) or its directory, or a model directory.")],
    sequence: Annotated[list[str] | None, typer.Argument(metavar="SEQUENCE...", help="DNA, in either case.")] = None,
    fasta: Annotated[Path | None, typer.Option(help="Or the records of a FASTA file, plain or compressed.")] = None,
) -> None:
    """Print sequences as tokens, tab-separated: name, bases, tokens, ids and pieces, [CLS] and [SEP] included."""
    from dnabert2_jax.genome.fasta import read_fasta
    from dnabert2_jax.genome.letters import LetterCounts, clean_letters
    from dnabert2_jax.tokenizer.loading import Tokenizer
    from dnabert2_jax.tokenizer.special import with_template

    if bool(sequence) == (fasta is not None):
        raise UserError("give either sequences or --fasta")
    loaded = Tokenizer.load(tokenizer)
    records = (
        ((record.name, record.sequence) for record in read_fasta(fasta))
        if fasta is not None
        else ((f"sequence {number}", text.encode()) for number, text in enumerate(sequence or (), start=1))
    )
    counts = LetterCounts()
    print("name\tbases\ttokens\tids\tpieces")
    for name, text in records:
        source = str(fasta or "command line")
        letters, seen = clean_letters(text, source=source, record=name)
        counts.add(seen)
        try:
            ids = with_template(loaded.encode_raw(letters.tobytes().decode("ascii"))).tolist()
        except UserError as error:  # too short for the tokenizer, which does not know what it was given
            raise UserError(f"{source}, {name}: {error}") from error
        pieces = " ".join(loaded.pieces[token] for token in ids)
        print(f"{name}\t{len(letters)}\t{len(ids)}\t{' '.join(map(str, ids))}\t{pieces}")
    if counts.lower_case:
        remark(f"{counts.lower_case:,} lower-case letters upper-cased")
    if counts.ambiguous:
        remark(f"{sum(counts.ambiguous.values()):,} ambiguity codes read as [UNK]")


@tokenizer.command("info", epilog="Example: dnabert2 tokenizer info runs/tokenizer")
def tokenizer_info(
    tokenizer: Annotated[
        Path, typer.Argument(help="Tokenizer (tokenizer.json, too) or its directory, or a model directory.")
    ],
) -> None:
    """Print what a tokenizer's pieces are, by their length in bases."""
    from collections import Counter

    from rich.table import Table

    from dnabert2_jax.tokenizer.loading import Tokenizer
    from dnabert2_jax.tokenizer.special import NUM_SPECIAL, SPECIAL_TOKENS

    loaded = Tokenizer.load(tokenizer)
    pieces = loaded.pieces[NUM_SPECIAL:]
    print(f"{loaded.vocab_size:,} ids: {' '.join(SPECIAL_TOKENS)} are 0 to {NUM_SPECIAL - 1}, the others are DNA")
    print(f"sha256 {loaded.sha256}")
    table = Table("bases", "pieces", "share", "examples, in the order of their ids")
    for length, count in sorted(Counter(map(len, pieces)).items()):
        examples = [piece for piece in pieces if len(piece) == length][: max(1, 48 // (length + 1))]
        table.add_row(str(length), f"{count:,}", f"{count / len(pieces):.1%}", " ".join(examples))
    results().print(table)


@corpus.command(
    "build",
    epilog="Example: dnabert2 corpus build --out runs/corpus yeast=chrI.fa.gz yeast=chrII.fa.gz ecoli=K12.fasta; "
    "or --config configs/corpus.toml",
)
def corpus_build(
    out: Annotated[Path, typer.Option(help="Corpus directory to make.")],
    fasta: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPECIES=]FASTA...", help="FASTA files, plain or compressed; the species' name, or the file's."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Or a TOML file with species, weights and held-out contigs; see configs/corpus.toml.")
    ] = None,
    ambiguous: Annotated[
        Ambiguous | None,
        typer.Option(
            help="N and IUPAC letters: 'split' windows there, or keep them as [UNK] ('unk') [default: split].",
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share of each species held out, in blocks [default: 0.02].")
    ] = None,
    validation_block: Annotated[int | None, typer.Option(help="Bases of a held-out block [default: 10000].")] = None,
    min_contig: Annotated[int | None, typer.Option(help="Shorter contigs are skipped, and counted [default: 100].")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Files read at the same time [default: one a core].")] = None,
) -> None:
    """Pack FASTA files into a memory-mapped corpus: two bits a base, held-out blocks chosen, everything changed counted.

    After a kill, the same command goes on with the files that it had not read. Options go before what a --config says.
    """
    import os
    from dataclasses import asdict

    from dnabert2_jax.genome.build import SpeciesSource, build_corpus
    from dnabert2_jax.genome.corpus_toml import load_description

    if bool(fasta) == (config is not None):
        raise UserError("give either FASTA files or --config")
    if config is not None:
        description = load_description(config)
        species, described = description.species, description.build
    else:
        files: dict[str, list[Path]] = {}
        for argument in fasta or ():
            name, equals, path = argument.rpartition("=")
            if equals and not name:
                raise UserError(f"{argument}: the species before '=' has no name; accepted is SPECIES=FASTA or FASTA")
            files.setdefault(name or Path(path).name.split(".")[0], []).append(Path(path))
        species, described = [SpeciesSource(name, paths) for name, paths in files.items()], CorpusConfig()
    given = {
        "ambiguous": ambiguous,
        "validation_fraction": validation_fraction,
        "validation_block": validation_block,
        "min_contig": min_contig,
    }
    count = sum(len(source.files) for source in species)
    with ProgressBar("reading files", count) as bar:
        built = build_corpus(
            species,
            out,
            **{**asdict(described), **{name: value for name, value in given.items() if value is not None}},
            processes=min(processes or os.cpu_count() or 1, max(count, 1)),
            progress=lambda name, bases: bar.advance(figures=f"{name}  {bases / 1e6:,.1f} Mb"),
        )
    _print_species(built, console)
    print(f"saved {out}")


@corpus.command("info", epilog="Example: dnabert2 corpus info runs/corpus --verify")
def corpus_info(
    corpus: Annotated[Path, typer.Argument(help="Corpus directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its hash.")] = False,
) -> None:
    """Print the species of a corpus, and how it was built."""
    from dnabert2_jax.genome.corpus import Corpus

    opened = Corpus.open(corpus)
    if verify:
        opened.verify()
    settings, species = opened.manifest.settings, opened.species
    bases = sum(s.bases for s in species)
    print(f"{len(species):,} species, {sum(s.contigs for s in species):,} contigs, {bases:,} bases")
    print(
        f"ambiguous {settings.ambiguous}, validation_fraction {settings.validation_fraction:g}, "
        f"validation_block {settings.validation_block:,}, min_contig {settings.min_contig:,}"
    )
    print(f"hash {opened.hash}" + (" (every file agrees with the manifest)" if verify else ""))
    _print_species(opened, results())


def _print_species(corpus: Any, screen: Console) -> None:
    from rich.table import Table

    table = Table("species", "contigs", "bases", "train", "validation", "lower case", "ambiguous", "skipped contigs")
    for species in corpus.species:
        skipped = f"{species.short_contigs + species.empty_records:,}"
        numbers = (species.contigs, species.bases, species.train_bases, species.validation_bases, species.lower_case)
        table.add_row(species.name, *(f"{n:,}" for n in numbers), f"{sum(species.ambiguous.values()):,}", skipped)
    screen.print(table)
