"""Options that several commands share, one by one and in groups."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import update_wrapper
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from typer import Option

from dnabert2_jax.cli.models import open_named
from dnabert2_jax.config.inference import BadRecordPolicy, DuplicateNames
from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.paths import as_path, in_bucket

if TYPE_CHECKING:
    import dnabert2_jax.data.intervals
    from dnabert2_jax.inference.model import InferenceModel


def path(text: str) -> Path:
    """A path on this machine or in a bucket."""
    return as_path(text)


def local_path(text: str) -> Path:
    """A path on this machine, where a bucket is not supported."""
    if in_bucket(text):
        raise UserError(f"{text}: this is done on this machine's disk; name a local directory, and copy it there or back")
    return as_path(text)


Config = Annotated[Path | None, Option("--config", parser=path, help="TOML file of the run; see configs/.")]
Workdir = Annotated[Path, Option("--workdir", parser=path, help="Directory of the run; reuse it to resume.")]
Set = Annotated[list[str] | None, Option("--set", metavar="A.B=C", help="Override one key; repeatable.")]

Model = Annotated[
    Path | None, Option(parser=path, help="Directory of a model or adapter, hf:OWNER/NAME, small, or small_5mer.")
]
Models = Annotated[
    list[Path] | None,
    Option(
        "--model",
        metavar="DIR",
        parser=path,
        help="Directory of a model or adapter; repeat it for the mean of several models.",
    ),
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
    DuplicateNames,
    Option("--duplicate-names", help="FASTA records with the same name: stop, or number them (gene, gene_2)."),
]
Force = Annotated[bool, Option("--force", help="Replace the output if it exists.")]
SequenceColumn = Annotated[str, Option(help="Column with the sequences.")]
LabelColumn = Annotated[str, Option(help="Column with the labels.")]
NameColumn = Annotated[
    str | None, Option(help="Column with the names.", show_default="name if there is one, else row numbers")
]
Window = Annotated[
    int | None, Option(min=1, metavar="BASES", help="One row per window of this many bases, with its coordinates.")
]
Step = Annotated[
    int | None, Option(min=1, metavar="BASES", help="Distance between the starts of windows.", show_default="a window")
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
    Option(min=1, metavar="N", help="Average over N views: the row, its other strand, other segmentations of both."),
]
Precision = Annotated[PrecisionOption, Option(help="auto is bfloat16 on GPU and TPU, float32 on CPU; tf32 rounds products.")]
Attention = Annotated[str, Option(help="auto, or the name of an attention backend.")]


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses whose fields are options; Typer sees the fields in place of each dataclass."""
    groups: dict[str, Any] = {}
    flat: list[Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            own = get_type_hints(groups[name], include_extras=True)
            for field in fields(groups[name]):
                default = Parameter.empty if field.default is MISSING else field.default
                flat.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=own[field.name]))
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))

    def grouped(**given: Any) -> None:
        made = {name: group(**{each.name: given.pop(each.name) for each in fields(group)}) for name, group in groups.items()}
        command(**given, **made)

    update_wrapper(grouped, command)
    del grouped.__wrapped__  # type: ignore[attr-defined]  # readers of its source and options must find these
    grouped.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    grouped.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return grouped


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """One model."""

    model: Model = None
    adapter: Adapter = None
    base: Base = None

    def open(self) -> "InferenceModel":
        """Read it, to be computed in float32.

        Raises:
            UserError: as :func:`~dnabert2_jax.cli.models.open_named`.
        """
        return open_named(self.model, self.adapter, self.base, "float32", "auto")


@dataclass(frozen=True, kw_only=True)
class ComputedModel(NamedModel):
    """One model, and how to compute it."""

    precision: Precision = "auto"
    attention: Attention = "auto"

    def open(self) -> "InferenceModel":
        """Read it.

        Raises:
            UserError: as :func:`~dnabert2_jax.cli.models.open_named`.
        """
        return open_named(self.model, self.adapter, self.base, self.precision, self.attention)


@dataclass(frozen=True, kw_only=True)
class Input:
    """Sequences of a file, or intervals of a genome."""

    data: Data = None
    fasta: Fasta = None
    bed: Bed = None
    region: Region = None
    bad_records: BadRecords = "error"

    def check(self) -> None:
        """Refuse options that do not go together, before any work."""
        if (self.data is None) == (self.fasta is None):
            raise UserError("give either --data FILE, or --fasta GENOME with --bed or --region")
        if (self.fasta is None) != (self.bed is None and not self.region):
            need = "--bed FILE or --region CONTIG:START-END" if self.fasta else "--fasta GENOME instead of --data"
            raise UserError(f"intervals are read from a genome: add {need}")

    def record(self) -> dict[str, Any]:
        """What to record of it with the output."""
        intervals = {} if self.fasta is None else {"bed": self.bed and str(self.bed), "regions": list(self.region or ())}
        return {"data": str(self.data or self.fasta), **intervals}

    def intervals(self, fasta: Path) -> "dnabert2_jax.data.intervals.Intervals":
        """The intervals of the genome ``fasta``."""
        from dnabert2_jax.data.intervals import Intervals
        from dnabert2_jax.genome.reference import Reference

        return Intervals(Reference(fasta), self.bed, tuple(self.region or ()), self.bad_records)
