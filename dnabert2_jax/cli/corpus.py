"""``dnabert2 corpus build`` and ``corpus info``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from typer import Argument, Option

from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.options import Force, local_path, path
from dnabert2_jax.cli.output import print_table, results
from dnabert2_jax.config.corpus import Ambiguous, CorpusConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar, console, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting
from dnabert2_jax.storage.paths import as_path

if TYPE_CHECKING:
    from dnabert2_jax.genome.build import SpeciesSource
    from dnabert2_jax.genome.corpus import Corpus

corpus = group("corpus", "Build and inspect corpora of genomes.")

# An option that is not given leaves what --config says, so its default is None, and help shows that of the corpus.
_DEFAULTS = CorpusConfig()


@corpus.command(
    "build",
    epilog="Example: dnabert2 corpus build --out runs/corpus yeast=chrI.fa.gz yeast=chrII.fa.gz ecoli=K12.fasta",
)
def corpus_build(
    out: Annotated[Path, Option(parser=local_path, help="Corpus directory to create.")],
    fasta: Annotated[
        list[str] | None,
        Argument(metavar="[SPECIES=]FASTA", help="FASTA files; a species is named after its file by default."),
    ] = None,
    config: Annotated[
        Path | None, Option(parser=path, help="TOML file instead of FASTA files; see configs/corpus.toml.")
    ] = None,
    ambiguous: Annotated[
        Ambiguous | None,
        Option(help="N and IUPAC letters: split windows there, or keep as [UNK] (unk).", show_default=_DEFAULTS.ambiguous),
    ] = None,
    validation_fraction: Annotated[
        float | None, Option(help="Fraction of each species to hold out.", show_default=f"{_DEFAULTS.validation_fraction}")
    ] = None,
    validation_block: Annotated[
        int | None, Option(help="Bases per held-out block.", show_default=f"{_DEFAULTS.validation_block}")
    ] = None,
    min_contig: Annotated[
        int | None, Option(help="Minimum bases of a contig.", show_default=f"{_DEFAULTS.min_contig}")
    ] = None,
    processes: Annotated[int | None, Option(min=1, help="Files read in parallel.", show_default="one per core")] = None,
    force: Force = False,
) -> None:
    """Build a memory-mapped corpus from FASTA files.

    Two bits per base; held-out blocks are chosen, and every change to the letters is counted. After a kill, rerun the same
    command to resume with the files that were not read yet. Options take precedence over --config.
    """
    import os
    from dataclasses import asdict

    from dnabert2_jax.genome.build import build_corpus
    from dnabert2_jax.genome.corpus_toml import load_description

    if bool(fasta) == (config is not None):
        raise UserError("give either FASTA files or --config")
    refuse_overwriting(out, force=force)
    if config is not None:
        description = load_description(config)
        species, described = description.species, description.build
    else:
        species, described = _species_of(fasta or []), _DEFAULTS
    options = {"validation_fraction": validation_fraction, "validation_block": validation_block, "min_contig": min_contig}
    given = {name: value for name, value in {"ambiguous": ambiguous, **options}.items() if value is not None}
    count = sum(len(source.files) for source in species)
    with ProgressBar("reading files", count) as bar:
        built = build_corpus(
            species,
            out,
            **{**asdict(described), **given},
            force=force,
            processes=min(processes or os.cpu_count() or 1, max(count, 1)),
            progress=lambda name, bases: bar.advance(figures=f"{name}  {bases / 1e6:,.1f} Mb"),
        )
    _print_species(built, console)
    _warn_of_held_out_shares(built)
    print(f"saved {out}")


@corpus.command("info", epilog="Example: dnabert2 corpus info runs/corpus --verify")
def corpus_info(
    corpus: Annotated[Path, Argument(parser=path, help="Corpus directory.")],
    verify: Annotated[bool, Option("--verify", help="Read every file and compare its hash.")] = False,
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


def _species_of(arguments: list[str]) -> "list[SpeciesSource]":
    """Species with their files, from ``[SPECIES=]FASTA``."""
    from dnabert2_jax.genome.build import SpeciesSource

    files: dict[str, list[Path]] = {}
    for argument in arguments:
        name, equals, path = argument.rpartition("=")
        if not path or (equals and not name):
            missing = "species before" if path else "file after"
            raise UserError(f"{argument}: the {missing} '=' has no name; accepted is SPECIES=FASTA or FASTA")
        files.setdefault(name or Path(path).name.split(".")[0], []).append(as_path(path))
    return [SpeciesSource(name, paths) for name, paths in files.items()]


def _warn_of_held_out_shares(corpus: "Corpus") -> None:
    """Warn of species whose held-out fraction is far from the requested one, because their contigs are few and short."""
    asked = corpus.manifest.settings.validation_fraction
    for species in corpus.species:
        share = species.validation_bases / (species.train_bases + species.validation_bases)
        if asked and not species.held_out and not asked / 2 <= share <= 1.5 * asked:
            remark(
                f"warning: {share:.1%} of {species.name} is held out instead of {asked:.1%}: its "
                f"{species.contigs:,} contigs of {species.bases:,} bases in all are too few or too short to divide "
                "further; to choose them yourself, list contigs as held_out in a --config"
            )


def _print_species(corpus: "Corpus", screen: Console) -> None:
    columns = {"contigs": "contigs", "bases": "bases", "train": "train_bases", "validation": "validation_bases"}
    print_table(
        [
            {
                "species": species.name,
                **{title: f"{getattr(species, name):,}" for title, name in columns.items()},
                "lower case": f"{species.lower_case:,}",
                "ambiguous": f"{sum(species.ambiguous.values()):,}",
                "skipped contigs": f"{species.short_contigs + species.empty_records:,}",
            }
            for species in corpus.species
        ],
        screen,
    )
