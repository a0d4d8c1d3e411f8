"""``dnabert2 predict``, ``embed`` and ``fill-mask``: using a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.models import open_named
from dnabert2_jax.cli.output import print_saved, print_table
from dnabert2_jax.config.inference import PER_TOKEN, STANDARD_STREAM, BadRecordPolicy, DuplicateNames, LongSequences, Pooling
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import console, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

if TYPE_CHECKING:
    from dnabert2_jax.data.sequences import Sequences
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.inference.scan import Windows


_LONG_BASES = 100_000
"""A sequence this long is a chromosome or a contig rather than something to be described by one row."""


@app.command(
    epilog="Example: dnabert2 predict --model runs/promoters/model --data genome.fa --window 500 --out runs/promoters.bed"
)
def predict(
    *,
    data: options.Data = None,
    out: Annotated[
        Path,
        Option(
            parser=options.path,
            help="Table to write (.csv, .tsv, .parquet; with --window or --fasta also .bed), or - for standard output.",
        ),
    ],
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    window: options.Window = None,
    step: options.Step = None,
    max_tokens: options.MaxTokens = None,
    long: Annotated[LongSequences, Option(help="Longer sequences: average over windows, or truncate.")] = "windows",
    overlap: Annotated[float, Option(help="Minimum window overlap (fraction).")] = 0.5,
    reverse_complement: options.ReverseComplement = False,
    sequence_column: options.SequenceColumn = "sequence",
    name_column: options.NameColumn = None,
    bad_records: options.BadRecords = "error",
    duplicate_names: options.DuplicateNamesOption = "error",
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Classify sequences, or predict measurements.

    Writes the label and the probabilities, or the predicted value, of each sequence, a note on doubtful ones, and the other
    columns of the input; with --window, one row per window of a genome, and with --fasta, one per interval of it. Pairs are
    read from the columns sequence1 and sequence2.
    """
    from dnabert2_jax.inference.output import TABLE_SUFFIXES, check_output, save_predictions
    from dnabert2_jax.inference.prediction import predict as predict_sequences
    from dnabert2_jax.inference.quality import summary_of
    from dnabert2_jax.inference.record import make_record, save_record_beside
    from dnabert2_jax.inference.rows import PREDICTION_SUFFIXES, expected_bytes, writing_rows
    from dnabert2_jax.inference.scan import predict_windows

    source = _Source(
        data, fasta, bed, tuple(region or ()), window, step, sequence_column, name_column, bad_records, duplicate_names
    )
    source.check(out)
    check_output(out, PREDICTION_SUFFIXES if source.has_places else TABLE_SUFFIXES)
    refuse_overwriting(out, force=force)
    opened = open_named(model, adapter, base, precision, attention)
    opened.need("classifier", "prediction", "train one with `dnabert2 finetune`")
    how: dict[str, Any] = {
        **{"max_tokens": max_tokens, "long": long, "overlap": overlap},
        **{"reverse_complement": reverse_complement, "batch_tokens": batch_tokens, "title": "predicting"},
    }
    settings = {"max_tokens": max_tokens or opened.head.max_tokens, "long": long, "overlap": overlap}
    record = make_record(opened, "predict", **source.record(), **settings, reverse_complement=reverse_complement)
    if not source.has_places:
        sequences = source.read()
        _remark_on_long(sequences, opened, "averaged over its windows" if long == "windows" else "cut to its first tokens")
        predictions = predict_sequences(opened, sequences, **how)
        if summary := predictions.summary():
            remark(summary)
        save_predictions(out, predictions, record)
    else:
        if out.suffix == ".bed" and opened.head.task == "regression":
            raise UserError(
                f"{out}: the scores of a .bed file are probabilities, and {opened.path} predicts measurements; "
                "choose .csv, .tsv or .parquet"
            )
        scan = source.plan()
        remark(f"{scan.summary()}; about {expected_bytes(out, scan.windows, 3 + len(opened.labels)) / 1e6:,.1f} MB to write")
        averaged, doubtful = 0, list[str]()
        with writing_rows(out, PREDICTION_SUFFIXES) as write:
            for columns in predict_windows(opened, scan, **how):
                write(columns)
                averaged += int((columns["windows"] > 1).sum())
                doubtful += filter(None, columns["note"])
        save_record_beside(out, record)
        if averaged:
            most = max_tokens or opened.head.max_tokens
            what, remedy = ("intervals", "add --window") if window is None else ("windows", "shorten --window")
            remark(f"{what} of more than {most:,} tokens: {averaged:,}, each the average over its parts; {remedy}")
        if said := summary_of(doubtful, opened.provenance.get("training_data")):
            remark(said)
    print_saved(out)


@app.command(epilog="Example: dnabert2 embed --model runs/pretrain/model --data genes.fa --out runs/genes.npz")
def embed(
    *,
    data: options.Data = None,
    out: Annotated[
        Path,
        Option(
            parser=options.path, help="File to write: .npz, .parquet or .h5; with --window or --fasta also .csv or .tsv."
        ),
    ],
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    window: options.Window = None,
    step: options.Step = None,
    pooling: Annotated[Pooling, Option(help="Vector per sequence (mean, max, cls), token or base.")] = "mean",
    sequence_column: options.SequenceColumn = "sequence",
    name_column: options.NameColumn = None,
    bad_records: options.BadRecords = "error",
    duplicate_names: options.DuplicateNamesOption = "error",
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Embed sequences of any length, or parts of a genome.

    By default the mean over a sequence's tokens, excluding special tokens.
    """
    from dnabert2_jax.inference.embedding import embed as embed_sequences
    from dnabert2_jax.inference.output import EMBEDDING_SUFFIXES, check_output, save_embeddings
    from dnabert2_jax.inference.record import make_record, save_record_beside
    from dnabert2_jax.inference.rows import EMBEDDING_SUFFIXES as WINDOW_SUFFIXES
    from dnabert2_jax.inference.rows import check_size, expected_bytes, writing_rows
    from dnabert2_jax.inference.scan import embed_windows

    source = _Source(
        data, fasta, bed, tuple(region or ()), window, step, sequence_column, name_column, bad_records, duplicate_names
    )
    source.check(out)
    check_output(out, WINDOW_SUFFIXES if source.has_places else EMBEDDING_SUFFIXES)
    refuse_overwriting(out, force=force)
    if source.has_places and pooling in PER_TOKEN:
        per, option = ("window", "--window") if window is not None else ("interval", "--fasta")
        raise UserError(f"--pooling {pooling} gives many vectors per {per}; with {option}, choose mean, max or cls")
    opened = open_named(model, adapter, base, precision, attention)
    record = make_record(opened, "embed", pooling=pooling, **source.record())
    width = opened.config.hidden_size
    if not source.has_places:
        sequences = source.read()
        _remark_on_long(sequences, opened, "embedded whole")
        embeddings = embed_sequences(opened, sequences, pooling, batch_tokens=batch_tokens, title="embedding")
        save_embeddings(out, embeddings, opened.tokenizer, record)
        vectors = len(embeddings.vectors)
    else:
        scan = source.plan()
        check_size(out, scan.windows, width)
        remark(f"{scan.summary()}; about {expected_bytes(out, scan.windows, width) / 1e6:,.1f} MB to write")
        with writing_rows(out, WINDOW_SUFFIXES) as write:
            for columns in embed_windows(opened, scan, pooling, batch_tokens=batch_tokens, title="embedding"):
                write(columns)
        save_record_beside(out, record)
        vectors = scan.windows
    remark(f"{vectors:,} vectors of {width} numbers, {pooling}")
    print_saved(out)


@app.command(
    "fill-mask", epilog="Example: dnabert2 fill-mask --model runs/pretrain/model --out runs/filled.csv TATAAA[MASK]GGCGTACG"
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


@dataclass(frozen=True)
class _Source:
    """What to compute something for: whole sequences of a file, windows over them, or intervals of a genome."""

    data: Path | None
    fasta: Path | None
    bed: Path | None
    regions: tuple[str, ...]
    window: int | None
    step: int | None
    sequence_column: str
    name_column: str | None
    bad_records: BadRecordPolicy
    duplicate_names: DuplicateNames

    @property
    def has_places(self) -> bool:
        """Whether rows have coordinates, and are written as they are computed."""
        return self.window is not None or self.fasta is not None

    def check(self, out: Path) -> None:
        """Refuse options that do not go together, before any work."""
        if (self.data is None) == (self.fasta is None):
            raise UserError("give either --data FILE, or --fasta GENOME with --bed or --region")
        if (self.fasta is None) != (self.bed is None and not self.regions):
            need = "--bed FILE or --region CONTIG:START-END" if self.fasta else "--fasta GENOME instead of --data"
            raise UserError(f"intervals are read from a genome: add {need}")
        if self.has_places and STANDARD_STREAM in (str(self.data), str(self.bed), str(out)):
            option = "--window" if self.window is not None else "--fasta"
            raise UserError(f"{option} reads its input twice and writes as it goes; name files instead of -")
        if self.data is not None and self.window is not None and self.bad_records == "skip":
            raise UserError("--bad-records skip does not go with --window, whose coordinates are those of whole records")
        if self.window is None and self.step is not None:
            raise UserError("--step is the distance between windows; give --window BASES as well")
        if not self.has_places and out.suffix == ".bed":
            raise UserError(f"{out}: a .bed file holds coordinates; add --window BASES, or choose .csv or .parquet")

    def record(self) -> dict[str, Any]:
        """What to record of it with the output."""
        intervals = {} if self.fasta is None else {"bed": self.bed and str(self.bed), "regions": list(self.regions)}
        windows = {} if self.window is None else {"window": self.window, "step": self.step or self.window}
        return {"data": str(self.data or self.fasta), **intervals, **windows}

    def read(self) -> "Sequences":
        """Whole sequences."""
        from dnabert2_jax.data.reading import read_sequences

        sequences = read_sequences(
            self.data or Path(),
            sequence_column=self.sequence_column,
            name_column=self.name_column,
            bad_records=self.bad_records,
            duplicate_names=self.duplicate_names,
        )
        remark(sequences.summary())
        return sequences

    def plan(self) -> "Windows":
        """Windows, or intervals."""
        from dnabert2_jax.data.intervals import Intervals
        from dnabert2_jax.genome.reference import Reference
        from dnabert2_jax.inference.interval_scan import plan_intervals
        from dnabert2_jax.inference.scan import plan_scan

        if self.fasta is not None:
            intervals = Intervals(Reference(self.fasta), self.bed, self.regions, self.bad_records)
            plan = plan_intervals(intervals, self.window, self.step)
            if self.window is None and plan.longest >= _LONG_BASES:
                remark(f"an interval of {plan.longest:,} bases becomes one row; for one row per stretch, add --window BASES")
            return plan
        return plan_scan(
            self.data or Path(),
            self.window or 0,
            self.step,
            sequence_column=self.sequence_column,
            name_column=self.name_column,
            duplicate_names=self.duplicate_names,
        )


def _remark_on_long(sequences: "Sequences", model: "InferenceModel", what: str) -> None:
    """Say before long work that a chromosome is about to become one row, and what it takes."""
    longest = max(sequences.sequences, key=len)
    if len(longest) < _LONG_BASES:
        return
    name = sequences.names[sequences.sequences.index(longest)]
    sample = longest[:_LONG_BASES]
    tokens = len(model.tokenizer.encode_raw(sample)) * len(longest) // len(sample)
    size = ""
    if what == "embedded whole":  # its activations are in memory together: those of attention, and the two of a gated layer
        numbers = 4 * model.config.hidden_size + 2 * model.config.intermediate_size
        size = f", in roughly {4 * tokens * numbers / 1e9:,.1f} GB of memory"
    remark(
        f"{name!r} has {len(longest):,} bases, about {tokens:,} tokens: one row, {what}{size}; for one row per stretch, "
        "with coordinates, add --window BASES"
    )
