"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dnabert2_jax.config.inference import BadRecordPolicy, DuplicateNames
from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.paths import as_path, in_bucket


def path(text: str) -> Path:
    """A path on this machine or in a bucket; Typer shows the name of this function as the kind of value."""
    return as_path(text)


def local_path(text: str) -> Path:
    """A path on this machine, for what cannot be done in a bucket."""
    if in_bucket(text):
        raise UserError(f"{text}: this is done on this machine's disk; name a local directory, and copy it there or back")
    return as_path(text)


local_path.__name__ = "path"

Config = Annotated[Path | None, Option("--config", parser=path, help="TOML file of the run; see configs/.")]
Workdir = Annotated[Path, Option("--workdir", parser=path, help="Directory of the run; reuse it to resume.")]
Set = Annotated[list[str] | None, Option("--set", metavar="A.B=C", help="Override one key; repeatable.")]

Model = Annotated[
    Path | None, Option(parser=path, help="Directory of a model or adapter, hf:OWNER/NAME, small, or small_5mer.")
]
Models = Annotated[
    list[Path] | None,
    Option("--model", parser=path, help="Directory of a model or adapter; repeat it for the mean of several models."),
]
Adapter = Annotated[Path | None, Option(parser=path, help="Adapter directory, instead of --model.")]
Base = Annotated[
    Path | None, Option(parser=path, help="The adapter's base model directory.", show_default="where the adapter says")
]
Data = Annotated[
    Path | None, Option(parser=path, help="FASTA, FASTQ, or a table (.csv, .tsv, .xlsx); - for standard input.")
]
Fasta = Annotated[
    Path | None,
    Option(parser=local_path, help="Genome, instead of --data: one row per interval of --bed or --region."),
]
Bed = Annotated[Path | None, Option(parser=local_path, help="Intervals of --fasta: name in column 4, strand in column 6.")]
Region = Annotated[
    list[str] | None, Option(metavar="CONTIG:START-END", help="Interval of --fasta, from 1, end included; repeatable.")
]
BadRecords = Annotated[BadRecordPolicy, Option(help="Records that cannot be used: stop, or skip and list them.")]
DuplicateNamesOption = Annotated[
    DuplicateNames, Option("--duplicate-names", help="FASTA records of one name: stop, or number them (gene, gene_2).")
]
Force = Annotated[bool, Option("--force", help="Replace the output if it exists.")]
SequenceColumn = Annotated[str, Option(help="Column with the sequences.")]
LabelColumn = Annotated[str, Option(help="Column with the labels.")]
NameColumn = Annotated[
    str | None, Option(help="Column with the names.", show_default="name if there is one, else row numbers")
]
Window = Annotated[
    int | None, Option(min=1, metavar="BASES", help="One row per window of so many bases, with its coordinates.")
]
Step = Annotated[
    int | None, Option(min=1, metavar="BASES", help="Bases from one window to the next.", show_default="a window")
]
ShardOption = Annotated[
    str | None, Option("--shard", metavar="I/N", help="Compute share I of N; dnabert2 merge-shards joins them.")
]
BatchTokens = Annotated[
    int | None, Option(min=1, help="Tokens per batch.", show_default="4096 on CPU, 65536 per device elsewhere")
]
MaxTokens = Annotated[int | None, Option(min=8, help="Maximum tokens per input.", show_default="the model's own")]
ReverseComplement = Annotated[bool, Option("--reverse-complement", help="Average the prediction over both strands.")]
Views = Annotated[
    int,
    Option(min=1, metavar="N", help="Average over N readings: the row, its other strand, other segmentations of both."),
]
Precision = Annotated[PrecisionOption, Option(help="auto is bfloat16 on GPU and TPU, float32 on CPU; tf32 rounds products.")]
Attention = Annotated[str, Option(help="auto, or the name of an attention backend.")]
