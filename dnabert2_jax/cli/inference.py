"""``dnabert2 predict``, ``embed`` and ``fill-mask``: using a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.config.inference import LongSequences, Pooling
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import console, remark

if TYPE_CHECKING:
    from dnabert2_jax.data.sequences import Sequences
    from dnabert2_jax.inference.model import InferenceModel


@app.command(
    epilog="Example: dnabert2 predict --model runs/promoters/model --data genome_windows.fa --out runs/predictions.csv"
)
def predict(
    data: options.Data,
    out: Annotated[Path, Option(help="Table to write: .csv or .parquet.")],
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    max_tokens: options.MaxTokens = None,
    long: Annotated[LongSequences, Option(help="Longer sequences: average over windows, or truncate.")] = "windows",
    overlap: Annotated[float, Option(help="Minimum window overlap (fraction).")] = 0.5,
    reverse_complement: options.ReverseComplement = False,
    sequence_column: options.SequenceColumn = "sequence",
    name_column: options.NameColumn = None,
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
) -> None:
    """Classify sequences, or predict measurements.

    Writes the label and the probabilities, or the predicted value, of each sequence. Pairs are read from the columns
    sequence1 and sequence2.
    """
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_predictions
    from dnabert2_jax.inference.prediction import predict as predict_sequences
    from dnabert2_jax.inference.record import make_record

    check_output(out, TABLE_SUFFIXES)
    sequences = _read(data, sequence_column, name_column)
    opened = _open(model, adapter, base, precision, attention)
    predictions = predict_sequences(
        opened,
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
    settings = {"max_tokens": predictions.max_tokens, "long": long, "overlap": overlap}
    record = make_record(opened, "predict", data=str(data), **settings, reverse_complement=reverse_complement)
    save_predictions(out, predictions, record)
    print(f"saved {out}")


@app.command(epilog="Example: dnabert2 embed --model runs/pretrain/model --data genes.fa --out runs/genes.npz")
def embed(
    data: options.Data,
    out: Annotated[Path, Option(help="File to write: .npz, .parquet or .h5.")],
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    pooling: Annotated[Pooling, Option(help="Vector per sequence (mean, max, cls), token or base.")] = "mean",
    sequence_column: options.SequenceColumn = "sequence",
    name_column: options.NameColumn = None,
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
) -> None:
    """Embed sequences of any length.

    By default the mean over a sequence's tokens, excluding special tokens.
    """
    from dnabert2_jax.inference.embedding import embed as embed_sequences
    from dnabert2_jax.inference.output import EMBEDDING_SUFFIXES, check_output, save_embeddings
    from dnabert2_jax.inference.record import make_record

    check_output(out, EMBEDDING_SUFFIXES)
    sequences = _read(data, sequence_column, name_column)
    opened = _open(model, adapter, base, precision, attention)
    embeddings = embed_sequences(opened, sequences, pooling, batch_tokens=batch_tokens, title="embedding")
    record = make_record(opened, "embed", data=str(data), pooling=pooling)
    save_embeddings(out, embeddings, opened.tokenizer, record)
    vectors, width = embeddings.vectors.shape
    remark(f"{vectors:,} vectors of {width} numbers, {pooling}")
    print(f"saved {out}")


@app.command(
    "fill-mask", epilog="Example: dnabert2 fill-mask --model runs/pretrain/model --out runs/filled.csv TATAAA[MASK]GGCGTACG"
)
def fill_mask(
    sequence: Annotated[str, Argument(help="DNA; each [MASK] stands for one unknown token.")],
    model: Annotated[Path, Option(help="Directory of a pretrained (masked_lm) model.")],
    out: Annotated[Path, Option(help="Table to write: .csv or .parquet.")],
    mask: Annotated[list[str] | None, Option(metavar="START-END", help="Also mask these bases, from 1; repeatable.")] = None,
    top_k: Annotated[int, Option(min=1, help="Candidates per masked token.")] = 5,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
) -> None:
    """Predict masked positions of a sequence."""
    from dnabert2_jax.inference.fill_mask import fill_mask as fill_sequence
    from dnabert2_jax.inference.fill_mask import parse_range
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_masked_tokens
    from dnabert2_jax.inference.record import make_record

    check_output(out, TABLE_SUFFIXES)
    ranges = [parse_range(text) for text in mask or ()]
    opened = _open(model, None, None, precision, attention)
    tokens = fill_sequence(opened, sequence, ranges, top_k=top_k)
    record = make_record(opened, "fill-mask", sequence=sequence, mask=mask or [], top_k=top_k)
    save_masked_tokens(out, tokens, record)
    records = [
        {
            "mask": str(number),
            "bases": "" if token.original is None else f"{token.start + 1}-{token.end}",
            "original": token.original or "",
            "candidates": "  ".join(f"{piece} {probability:.3f}" for piece, probability in token.candidates),
        }
        for number, token in enumerate(tokens, start=1)
    ]
    print_table(records, console)
    print(f"saved {out}")


def _read(data: Path, sequence_column: str, name_column: str | None) -> "Sequences":
    from dnabert2_jax.data.reading import read_sequences

    sequences = read_sequences(data, sequence_column=sequence_column, name_column=name_column)
    remark(sequences.summary())
    return sequences


def _open(
    model: Path | None, adapter: Path | None, base: Path | None, precision: options.Precision, attention: options.Attention
) -> "InferenceModel":
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.modeling.compute import resolve_compute

    if (model is None) == (adapter is None):
        raise UserError("give either --model (a model or adapter directory) or --adapter (an adapter directory)")
    return InferenceModel.load(model or adapter or Path(), resolve_compute(precision, attention), base)
