"""``dnabert2 predict``, ``embed`` and ``fill-mask``: using a trained model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.models import open_ensemble, open_named
from dnabert2_jax.cli.output import print_saved, print_table
from dnabert2_jax.config.inference import (
    PER_TOKEN,
    STANDARD_STREAM,
    LongSequences,
    Pooling,
    Shard,
)
from dnabert2_jax.errors import UserError, counted
from dnabert2_jax.progress import ProgressBar, console, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

if TYPE_CHECKING:
    import dnabert2_jax.inference.scan
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.inference.record import Record
    from dnabert2_jax.inference.rows import RowWriter


_LONG_BASES = 100_000
"""A sequence this long is probably a chromosome or contig, for which a single row is of little use."""


@dataclass(frozen=True, kw_only=True)
class Input(options.Input):
    """What to compute something for: whole sequences of a file, windows over them, or intervals of a genome."""

    window: options.Window = None
    step: options.Step = None
    sequence_column: options.SequenceColumn = "sequence"
    name_column: options.NameColumn = None
    duplicate_names: options.DuplicateNamesOption = "error"
    shard: options.ShardOption = None

    @cached_property
    def part(self) -> Shard | None:
        """The share of the work that this process does, if it is divided."""
        return Shard.parse(self.shard) if self.shard else None

    @property
    def has_places(self) -> bool:
        """Whether rows have coordinates, and are written as they are computed."""
        return self.window is not None or self.fasta is not None

    def check_with(self, out: Path) -> None:
        """Refuse options that do not go together, before any work."""
        self.check()
        if self.has_places and STANDARD_STREAM in (str(self.data), str(self.bed)):
            option = "--window" if self.window is not None else "--fasta"
            raise UserError(f"{option} reads its input twice; name a file instead of -")
        if self.data is not None and self.window is not None and self.bad_records == "skip":
            raise UserError("--bad-records skip does not go with --window, whose coordinates are those of whole records")
        if self.window is None and self.step is not None:
            raise UserError("--step is the distance between windows; give --window BASES as well")
        if not self.has_places and out.suffix == ".bed":
            raise UserError(f"{out}: a .bed file holds coordinates; add --window BASES, or choose .csv or .parquet")

    def record(self) -> dict[str, Any]:
        """What to record of it with the output."""
        windows = {} if self.window is None else {"window": self.window, "step": self.step or self.window}
        share = {} if self.part is None else {"shard": str(self.part)}
        return {**super().record(), **windows, **share}

    def job(self, share: "dnabert2_jax.inference.scan.Share") -> dict[str, Any]:
        """What the rows depend on besides the record, to tell whether a job can be resumed."""
        from dnabert2_jax.inference.scan import WholeSequences
        from dnabert2_jax.storage.copies import local_copy
        from dnabert2_jax.storage.hashes import file_sha256

        if str(self.data) == STANDARD_STREAM and isinstance(share.source, WholeSequences):
            content: Any = file_sha256(share.source.file.path)
        else:
            files = [local_copy(path).stat() for path in (self.data, self.fasta, self.bed) if path]
            content = [[file.st_size, file.st_mtime_ns] for file in files]
        return {
            "content": content,
            "columns": [self.sequence_column, self.name_column],
            "records": [self.bad_records, self.duplicate_names],
            "bases_at_once": share.bases,
        }

    @contextmanager
    def writing(
        self, title: str, share: "dnabert2_jax.inference.scan.Share", out: Path, record: "Record", *, force: bool
    ) -> "Iterator[tuple[RowWriter, ProgressBar]]":
        """The writer of the rows of a share, after what an earlier process of this job has written, and a progress bar."""
        from dnabert2_jax.inference.rows import writing_rows

        with (
            writing_rows(out, record, self.job(share), beside=self.has_places, force=force) as writer,
            ProgressBar(title, share.rows, writer.rows) as bar,
        ):
            if writer.parts:
                remark(f"resuming after {writer.rows:,} rows written by an earlier process of this job")
            yield writer, bar

    @contextmanager
    def opened(self) -> "Iterator[dnabert2_jax.inference.scan.Source]":
        """Everything read once and checked."""
        from dnabert2_jax.data.streaming import checked_file
        from dnabert2_jax.inference.interval_scan import plan_intervals
        from dnabert2_jax.inference.scan import WholeSequences, plan_scan

        names: dict[str, Any] = {"sequence_column": self.sequence_column, "name_column": self.name_column}
        names["duplicate_names"] = self.duplicate_names
        if self.fasta is not None:
            plan = plan_intervals(self.intervals(self.fasta), self.window, self.step)
            if self.window is None and plan.longest >= _LONG_BASES:
                remark(f"an interval of {plan.longest:,} bases becomes one row; for one row per stretch, add --window BASES")
            yield plan
        elif self.window is not None:
            yield plan_scan(self.data or Path(), self.window, self.step, **names)
        else:
            with checked_file(self.data or Path(), **names, bad_records=self.bad_records) as file:
                yield WholeSequences(file)


@app.command(
    epilog="Example: dnabert2 predict --model runs/promoters/model --data genome.fa --window 500 --out runs/promoters.bed"
)
@options.with_option_groups
def predict(
    source: Input,
    out: Annotated[
        Path,
        Option(
            parser=options.path,
            help="Table to write: .csv, .tsv, .jsonl, .parquet, with --window or --fasta .bed; or - for standard output.",
        ),
    ],
    model: options.Models = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    max_tokens: options.MaxTokens = None,
    long: Annotated[LongSequences, Option(help="Longer sequences: average over windows, or truncate.")] = "windows",
    overlap: Annotated[float, Option(help="Minimum window overlap (fraction).")] = 0.5,
    reverse_complement: options.ReverseComplement = False,
    views: options.Views = 1,
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Classify sequences, or predict measurements.

    Writes the label and the probabilities, or the predicted value, of each sequence, a note on doubtful ones, and the other
    columns of the input; with --window, one row per window of a genome, and with --fasta, one per interval of it. Pairs are
    read from the columns sequence1 and sequence2. With several models, writes their mean and standard deviation.
    """
    from dnabert2_jax.inference.formats import PLACE_SUFFIXES, PREDICTION_SUFFIXES
    from dnabert2_jax.inference.output import check_output
    from dnabert2_jax.inference.prediction import summary_of
    from dnabert2_jax.inference.quality import doubts_in
    from dnabert2_jax.inference.record import make_ensemble_record
    from dnabert2_jax.inference.rows import expected_bytes
    from dnabert2_jax.inference.scan import bases_of_a_chunk, predict_chunks, share_of
    from dnabert2_jax.storage.unfinished import check_destinations

    out = source.part.path(out) if source.part else out
    source.check_with(out)
    check_output(out, PLACE_SUFFIXES if source.has_places else PREDICTION_SUFFIXES)
    check_destinations([out], force=force)
    opened, *ensemble = open_ensemble(model, adapter, base, precision, attention)
    if out.suffix == ".bed" and opened.head.task == "regression":
        raise UserError(
            f"{out}: the scores of a .bed file are probabilities, and {opened.path} predicts measurements; "
            "choose .csv, .tsv or .parquet"
        )
    most, training_data = max_tokens or opened.head.max_tokens, opened.provenance.get("training_data")
    how: dict[str, Any] = {"max_tokens": most, "long": long, "overlap": overlap}
    how |= {"reverse_complement": reverse_complement, "views": views}
    record = make_ensemble_record([opened, *ensemble], "predict", **source.record(), **how)
    with source.opened() as rows:
        size = expected_bytes(out, rows.rows, 3 + len(opened.labels) * (2 if ensemble else 1))
        remark(f"{rows.summary()}; about {_in_bytes(size)} to write")
        _remark_on_long(rows, opened, "averaged over its windows" if long == "windows" else "cut to its first tokens")
        share = share_of(rows, bases_of_a_chunk(batch_tokens), source.part)
        with source.writing("predicting", share, out, record, force=force) as (writer, bar):
            chunks, few_shapes = share.chunks(writer.parts), share.few_shapes
            for chunk, predictions in predict_chunks(
                opened, chunks, ensemble=ensemble, **how, batch_tokens=batch_tokens, few_shapes=few_shapes
            ):
                columns = chunk.coordinates() | predictions.columns()
                writer.write(columns, len(predictions), predictions.counts())
                bar.advance(len(predictions))
    counts = writer.counts
    if not source.has_places:
        summary = summary_of(counts, most, training_data)
    else:
        if counts["long"]:
            what, remedy = ("intervals", "add --window") if source.window is None else ("windows", "shorten --window")
            remark(f"{what} of more than {most:,} tokens: {counts['long']:,}, each the average over its parts; {remedy}")
        summary = doubts_in(counts, training_data)
    if summary:
        remark(summary)
    print_saved(out)


@app.command(epilog="Example: dnabert2 embed --model runs/pretrain/model --data genes.fa --out runs/genes.npz")
@options.with_option_groups
def embed(
    source: Input,
    out: Annotated[
        Path,
        Option(
            parser=options.path, help="File to write: .npz, .parquet, .h5, .csv, .tsv or .jsonl, or - for standard output."
        ),
    ],
    model: options.ComputedModel,
    pooling: Annotated[Pooling, Option(help="Vector per sequence (mean, max, cls), token or base.")] = "mean",
    batch_tokens: options.BatchTokens = None,
    force: options.Force = False,
) -> None:
    """Embed sequences of any length, or parts of a genome.

    By default the mean over a sequence's tokens, excluding special tokens.
    """
    from dnabert2_jax.inference.embedding import expected_vectors
    from dnabert2_jax.inference.formats import ARRAY_SUFFIXES, EMBEDDING_SUFFIXES
    from dnabert2_jax.inference.output import check_output
    from dnabert2_jax.inference.record import make_record
    from dnabert2_jax.inference.rows import check_size, expected_bytes
    from dnabert2_jax.inference.scan import bases_of_a_chunk, embed_chunks, share_of
    from dnabert2_jax.storage.unfinished import check_destinations

    out = source.part.path(out) if source.part else out
    source.check_with(out)
    check_output(out, EMBEDDING_SUFFIXES)
    check_destinations([out], force=force)
    if source.has_places and pooling in PER_TOKEN:
        per, option = ("window", "--window") if source.window is not None else ("interval", "--fasta")
        raise UserError(f"--pooling {pooling} gives many vectors per {per}; with {option}, choose mean, max or cls")
    opened = model.open()
    record = make_record(opened, "embed", pooling=pooling, **source.record())
    width = opened.config.hidden_size
    with source.opened() as rows:
        vectors = expected_vectors(opened, rows.rows, rows.bases, pooling)
        remark(f"{rows.summary()}; about {_in_bytes(expected_bytes(out, vectors, width))} to write")
        _remark_on_long(rows, opened, "embedded whole")
        share = share_of(rows, bases_of_a_chunk(batch_tokens, width if pooling in PER_TOKEN else 0), source.part)
        check_size(out, vectors * share.rows // rows.rows, width)
        with source.writing("embedding", share, out, record, force=force) as (writer, bar):
            chunks, few_shapes = share.chunks(writer.parts), share.few_shapes
            for chunk, embeddings in embed_chunks(opened, chunks, pooling, batch_tokens=batch_tokens, few_shapes=few_shapes):
                found = embeddings.arrays(opened.tokenizer) if out.suffix in ARRAY_SUFFIXES else embeddings.columns()
                writer.write(chunk.coordinates() | found, len(chunk.sequences), {"vectors": len(embeddings.vectors)})
                bar.advance(len(chunk.sequences))
    remark(f"{counted(writer.counts['vectors'], 'vector')} of {width} numbers, {pooling}")
    print_saved(out)


@app.command("merge-shards", epilog="Example: dnabert2 merge-shards runs/predictions.csv")
def merge_shards(
    out: Annotated[Path, Argument(parser=options.path, help="The --out of the commands that computed the shares.")],
    force: options.Force = False,
) -> None:
    """Join what predict or embed computed in shares.

    The shares lie beside the file (predictions.2-of-8.csv) and stay there. Rows come in the order of the input.
    """
    from dnabert2_jax.inference.shards import find_shards

    shards = find_shards(out)
    refuse_overwriting(out, force=force)
    shards.merge()
    remark(f"{len(shards.files)} shares joined: {shards.files[0].name} to {shards.files[-1].name}")
    print_saved(out)


@app.command(
    "fill-mask",
    epilog="Example: dnabert2 fill-mask --model runs/pretrain/model --out runs/filled.csv 'TATAAA[MASK]GGCGTACG'",
)
def fill_mask(
    sequence: Annotated[str, Argument(help="DNA; each [MASK] stands for one unknown token.")],
    model: Annotated[Path, Option(parser=options.path, help="Directory of a pretrained (masked_lm) model.")],
    out: Annotated[
        Path, Option(parser=options.path, help="Table to write (.csv, .tsv, .parquet), or - for standard output.")
    ],
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
    from dnabert2_jax.inference.record import make_record

    check_output(out, TABLE_SUFFIXES)
    refuse_overwriting(out, force=force)
    ranges = [parse_range(text) for text in mask or ()]
    opened = open_named(model, None, None, precision, attention)
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
    print_saved(out)


def _in_bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{math.ceil(size / 1e3)} kB"


def _remark_on_long(source: "dnabert2_jax.inference.scan.Source", model: "InferenceModel", what: str) -> None:
    """Warn before long work that a chromosome will become a single row, with the cost."""
    from dnabert2_jax.inference.scan import WholeSequences

    if not isinstance(source, WholeSequences) or (longest := source.file.longest).bases < _LONG_BASES:
        return
    sample = longest.texts[0][:_LONG_BASES]
    tokens = len(model.tokenizer.encode_raw(sample)) * longest.bases // len(sample)
    size = ""
    if what == "embedded whole":  # its activations are in memory together: those of attention, and the two of a gated layer
        numbers = 4 * model.config.hidden_size + 2 * model.config.intermediate_size
        size = f", in roughly {4 * tokens * numbers / 1e9:,.1f} GB of memory"
    remark(
        f"{longest.name!r} has {longest.bases:,} bases, about {tokens:,} tokens: one row, {what}{size}; for one row per "
        "stretch, with coordinates, add --window BASES"
    )
