"""``dnabert2 predict``, ``embed`` and ``fill-mask``: using a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.output import print_saved, print_table
from dnabert2_jax.config.inference import BadRecordPolicy, LongSequences, Pooling
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import console, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

if TYPE_CHECKING:
    from dnabert2_jax.data.sequences import Sequences
    from dnabert2_jax.inference.model import InferenceModel


@app.command(
    epilog="Example: dnabert2 predict --model runs/promoters/model --data genome_windows.fa --out runs/predictions.csv"
)
def predict(
    data: options.Data,
    out: Annotated[Path, Option(help="Table to write (.csv, .tsv, .parquet), or - for standard output.")],
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    max_tokens: options.MaxTokens = None,
    long: Annotated[LongSequences, Option(help="Longer sequences: average over windows, or truncate.")] = "windows",
    overlap: Annotated[float, Option(help="Minimum window overlap (fraction).")] = 0.5,
    reverse_complement: options.ReverseComplement = False,
    sequence_column: options.SequenceColumn = "sequence",
    name_column: options.NameColumn = None,
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Classify sequences, or predict measurements.

    Writes the label and the probabilities, or the predicted value, of each sequence, a note on doubtful ones, and the other
    columns of the input. Pairs are read from the columns sequence1 and sequence2.
    """
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_predictions
    from dnabert2_jax.inference.prediction import predict as predict_sequences

    check_output(out, TABLE_SUFFIXES)
    refuse_overwriting(out, force=force)
    sequences = _read(data, sequence_column, name_column, bad_records)
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
    print_saved(out)


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
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Embed sequences of any length.

    By default the mean over a sequence's tokens, excluding special tokens.
    """
    from dnabert2_jax.inference.embedding import embed as embed_sequences
    from dnabert2_jax.inference.output import EMBEDDING_SUFFIXES, check_output, save_embeddings

    check_output(out, EMBEDDING_SUFFIXES)
    refuse_overwriting(out, force=force)
    sequences = _read(data, sequence_column, name_column, bad_records)
    opened = _open(model, adapter, base, precision, attention)
    embeddings = embed_sequences(opened, sequences, pooling, batch_tokens=batch_tokens, title="embedding")
    save_embeddings(out, embeddings, opened.tokenizer)
    vectors, width = embeddings.vectors.shape
    remark(f"{vectors:,} vectors of {width} numbers, {pooling}")
    print_saved(out)


@app.command(
    "fill-mask", epilog="Example: dnabert2 fill-mask --model runs/pretrain/model --out runs/filled.csv TATAAA[MASK]GGCGTACG"
)
def fill_mask(
    sequence: Annotated[str, Argument(help="DNA; each [MASK] stands for one unknown token.")],
    model: Annotated[Path, Option(help="Directory of a pretrained (masked_lm) model.")],
    out: Annotated[Path, Option(help="Table to write (.csv, .tsv, .parquet), or - for standard output.")],
    mask: Annotated[list[str] | None, Option(metavar="START-END", help="Also mask these bases, from 1; repeatable.")] = None,
    top_k: Annotated[int, Option(min=1, help="Candidates per masked token.")] = 5,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Predict masked positions of a sequence."""
    from dnabert2_jax.inference.fill_mask import fill_mask as fill_sequence
    from dnabert2_jax.inference.fill_mask import parse_range
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_masked_tokens

    check_output(out, TABLE_SUFFIXES)
    refuse_overwriting(out, force=force)
    ranges = [parse_range(text) for text in mask or ()]
    tokens = fill_sequence(_open(model, None, None, precision, attention), sequence, ranges, top_k=top_k)
    save_masked_tokens(out, tokens)
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
    print_saved(out)


def _read(data: Path, sequence_column: str, name_column: str | None, bad_records: BadRecordPolicy) -> "Sequences":
    from dnabert2_jax.data.reading import read_sequences

    sequences = read_sequences(data, sequence_column=sequence_column, name_column=name_column, bad_records=bad_records)
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
