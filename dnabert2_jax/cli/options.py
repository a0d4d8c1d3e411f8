"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from dnabert2_jax.config.model import PrecisionOption

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of the run; see configs/.")]
Workdir = Annotated[Path, typer.Option("--workdir", help="Directory of the run; reuse it to resume.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key of the run; can be repeated.")
]

Model = Annotated[Path | None, typer.Option(help="Model or adapter directory.")]
Adapter = Annotated[Path | None, typer.Option(help="Adapter directory, instead of --model.")]
Base = Annotated[
    Path | None, typer.Option(help="The adapter's base model directory.", show_default="where the adapter says")
]
Data = Annotated[Path, typer.Option(help="FASTA, or a CSV or TSV table with a column of sequences; plain or gzip.")]
SequenceColumn = Annotated[str, typer.Option(help="Column with the sequences.")]
NameColumn = Annotated[
    str | None, typer.Option(help="Column with the names.", show_default="name if there is one, else row numbers")
]
BatchTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens per batch.", show_default="4096 on CPU, 65536 elsewhere")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=8, help="Maximum input length in tokens, special tokens included.", show_default="the model's own"),
]
ReverseComplement = Annotated[bool, typer.Option("--reverse-complement", help="Average the prediction over both strands.")]
Precision = Annotated[PrecisionOption, typer.Option(help="auto is bfloat16 on GPU and TPU, float32 on CPU.")]
Attention = Annotated[str, typer.Option(help="auto, or the name of an attention backend.")]
