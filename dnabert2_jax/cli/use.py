"""``dnabert2 predict``, ``embed`` and ``fill-mask``: using a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid

from dnabert2_jax.config.inference import LongSequences, Pooling
from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import console, remark

if TYPE_CHECKING:
    from dnabert2_jax.inference.fill_mask import MaskedToken
    from dnabert2_jax.inference.model import InferenceModel

commands = typer.Typer()

Model = Annotated[Path | None, typer.Option(help="Model directory, or adapter directory.")]
Adapter = Annotated[Path | None, typer.Option(help="Adapter directory, instead of --model.")]
Base = Annotated[Path | None, typer.Option(help="The adapter's base, if it is not where the adapter says.")]
Data = Annotated[Path, typer.Option(help="FASTA, or a CSV or TSV table with a column of sequences; plain or gzip.")]
SequenceColumn = Annotated[str, typer.Option(help="The table's column of sequences.")]
NameColumn = Annotated[
    str | None, typer.Option(help="The table's column of names.", show_default="name if there is one, else row numbers")
]
BatchTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a batch.", show_default="4096 on CPU, 65536 elsewhere")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=8, help="Longest input in tokens, special tokens included.", show_default="the model's own"),
]
Precision = Annotated[PrecisionOption, typer.Option(help="auto is bfloat16 on GPU and TPU, float32 on CPU.")]
Attention = Annotated[str, typer.Option(help="auto, or the name of an attention backend.")]


@commands.command(
    epilog="Example: dnabert2 predict --model runs/promoters/model --data genome_windows.fa --out runs/predictions.csv"
)
def predict(
    data: Data,
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")],
    model: Model = None,
    adapter: Adapter = None,
    base: Base = None,
    max_tokens: MaxTokens = None,
    long: Annotated[LongSequences, typer.Option(help="Longer sequences: averaged over windows, or cut.")] = "windows",
    overlap: Annotated[float, typer.Option(help="Least share of a window that the next one repeats.")] = 0.5,
    reverse_complement: Annotated[
        bool, typer.Option("--reverse-complement", help="Give the mean over both strands.")
    ] = False,
    sequence_column: SequenceColumn = "sequence",
    name_column: NameColumn = None,
    batch_tokens: BatchTokens = None,
    precision: Precision = "auto",
    attention: Attention = "auto",
) -> None:
    """Classify sequences: label and probabilities, or the value of a regression. Pairs: columns sequence1 and sequence2."""
    from dnabert2_jax.data.reading import read_sequences
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_predictions
    from dnabert2_jax.inference.prediction import predict as predict_sequences

    check_output(out, TABLE_SUFFIXES)
    sequences = read_sequences(data, sequence_column=sequence_column, name_column=name_column)
    remark(sequences.summary())
    predictions = predict_sequences(
        _open(model, adapter, base, precision, attention),
        sequences,
        max_tokens=max_tokens,
        long=long,
        overlap=overlap,
        reverse_complement=reverse_complement,
        batch_tokens=batch_tokens,
        title="predicting",
    )
    if summary := predictions.summary():
        remark(summary)
    save_predictions(out, predictions)
    print(f"saved {out}")


@commands.command(epilog="Example: dnabert2 embed --model runs/pretrain/model --data genes.fa --out runs/genes.npz")
def embed(
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write: .npz, .parquet or .h5.")],
    model: Model = None,
    adapter: Adapter = None,
    base: Base = None,
    pooling: Annotated[
        Pooling, typer.Option(help="A vector for each sequence (mean, max, cls), for each token or for each base.")
    ] = "mean",
    sequence_column: SequenceColumn = "sequence",
    name_column: NameColumn = None,
    batch_tokens: BatchTokens = None,
    precision: Precision = "auto",
    attention: Attention = "auto",
) -> None:
    """Embed sequences of any lengths: by default the mean over a sequence's tokens, special tokens left out."""
    from dnabert2_jax.data.reading import read_sequences
    from dnabert2_jax.inference.embedding import embed as embed_sequences
    from dnabert2_jax.inference.output import EMBEDDING_SUFFIXES, check_output, save_embeddings

    check_output(out, EMBEDDING_SUFFIXES)
    sequences = read_sequences(data, sequence_column=sequence_column, name_column=name_column)
    remark(sequences.summary())
    opened = _open(model, adapter, base, precision, attention)
    embeddings = embed_sequences(opened, sequences, pooling, batch_tokens=batch_tokens, title="embedding")
    save_embeddings(out, embeddings, opened.tokenizer)
    vectors, width = embeddings.vectors.shape
    remark(f"{vectors:,} vectors of {width} numbers, {pooling}")
    print(f"saved {out}")


@commands.command(
    "fill-mask",
    epilog="Example: dnabert2 fill-mask --model runs/pretrain/model --out runs/filled.csv TATAAA[MASK]GGCGTACG",
)
def fill_mask(
    sequence: Annotated[str, typer.Argument(help="DNA; each [MASK] in it stands for one unknown token.")],
    model: Annotated[Path, typer.Option(help="Directory of a pretrained (masked_lm) model.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")],
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="START-END", help="Or mask the tokens that hold these bases, from 1; may be given many times."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates of each masked token.")] = 5,
    precision: Precision = "auto",
    attention: Attention = "auto",
) -> None:
    """Ask a masked language model what stands at masked places of a sequence."""
    from dnabert2_jax.inference.fill_mask import fill_mask as fill_sequence
    from dnabert2_jax.inference.fill_mask import parse_range
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_masked_tokens

    check_output(out, TABLE_SUFFIXES)
    ranges = [parse_range(text) for text in mask or ()]
    tokens = fill_sequence(_open(model, None, None, precision, attention), sequence, ranges, top_k=top_k)
    save_masked_tokens(out, tokens)
    _show(tokens)
    print(f"saved {out}")


def _open(
    model: Path | None, adapter: Path | None, base: Path | None, precision: PrecisionOption, attention: str
) -> "InferenceModel":
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.modeling.compute import resolve_compute

    if (model is None) == (adapter is None):
        raise UserError("give either --model (a model or adapter directory) or --adapter (an adapter directory)")
    return InferenceModel.load(model or adapter or Path(), resolve_compute(precision, attention), base)


def _show(tokens: "list[MaskedToken]") -> None:
    grid = Grid("mask", "bases", "original", "candidates")
    for number, token in enumerate(tokens, start=1):
        bases = "" if token.original is None else f"{token.start + 1}-{token.end}"
        candidates = "  ".join(f"{piece} {probability:.3f}" for piece, probability in token.candidates)
        grid.add_row(*(text.replace("[", "\\[") for text in (str(number), bases, token.original or "", candidates)))
    console.print(grid)
