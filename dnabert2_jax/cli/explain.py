"""``dnabert2 explain``: what a model's output depends on, base by base."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.models import open_named
from dnabert2_jax.cli.output import print_saved
from dnabert2_jax.config.inference import BadRecordPolicy, ExplainMethod, Resolution
from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

if TYPE_CHECKING:
    from dnabert2_jax.data.sequences import Sequences
    from dnabert2_jax.interpretation.results import Places

explain = group("explain", "Show what a model's output depends on, base by base.")

Out = Annotated[Path, Option(parser=options.path, help="File to write: .npz or .h5.")]
Target = Annotated[str | None, Option(metavar="CLASS", help="Class to explain; not needed for a regression.")]
Plot = Annotated[
    Path | None, Option(parser=options.local_path, help="Directory for a picture of each sequence, light and dark.")
]
PlotFormat = Annotated[Literal["png", "svg", "pdf"], Option("--format", help="With --plot: format of the pictures.")]
Page = Annotated[Path | None, Option(parser=options.local_path, help="HTML page to write, with pictures.")]
Modisco = Annotated[
    Path | None, Option(parser=options.local_path, help="Directory for TF-MoDISco's input, ohe.npz and shap.npz.")
]
Precision = Annotated[PrecisionOption, Option(help="float32 is accurate; auto is bfloat16 on GPU and TPU.")]
Layers = Annotated[str | None, Option(metavar="LIST", help="Layers, from 0, as in 0,11 or 8-11.", show_default="all")]
Heads = Annotated[str | None, Option(metavar="LIST", help="Heads, from 0, as in 0,3 or 4-7.", show_default="all")]


@explain.command(
    "ism",
    epilog="Example: dnabert2 explain ism --model runs/promoters/model --fasta hg38.fa --region chr22:19,710,600-19,710,900 "
    "--target promoter --out runs/ism.npz --page runs/ism.html",
)
def ism(
    *,
    out: Out,
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    data: options.Data = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    target: Target = None,
    plot: Plot = None,
    plot_format: PlotFormat = "png",
    page: Page = None,
    modisco: Modisco = None,
    max_tokens: options.MaxTokens = None,
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    precision: Precision = "float32",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Substitute every base by each other one.

    For a classifier, how each of the four bases at a site changes the log-odds of a class (or a regression's measurement);
    for a masked language model, the log-probabilities of the four bases.
    """
    source = _Source(data, fasta, bed, tuple(region or ()), bad_records)
    written = _Written("ism", out, plot, plot_format, page, modisco, force)
    compute = _Compute(model, adapter, base, precision, attention)
    _explain(source, written, compute, target=target, max_tokens=max_tokens, batch_tokens=batch_tokens)


@explain.command(
    "ig",
    epilog="Example: dnabert2 explain ig --model runs/promoters/model --data promoters.fa --target promoter "
    "--out runs/ig.h5 --modisco runs/modisco",
)
def ig(
    *,
    out: Out,
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    data: options.Data = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    target: Target = None,
    points: Annotated[int, Option(min=1, help="Points of the integral; more are more accurate.")] = 64,
    plot: Plot = None,
    plot_format: PlotFormat = "png",
    page: Page = None,
    modisco: Modisco = None,
    max_tokens: options.MaxTokens = None,
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    precision: Precision = "float32",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Integrated gradients of a classifier.

    Contributions of tokens, which add up to the output minus that of a sequence of [MASK]; a token's bases share alike.
    """
    source = _Source(data, fasta, bed, tuple(region or ()), bad_records)
    written = _Written("ig", out, plot, plot_format, page, modisco, force)
    compute = _Compute(model, adapter, base, precision, attention)
    _explain(source, written, compute, target=target, points=points, max_tokens=max_tokens, batch_tokens=batch_tokens)


@explain.command(
    "saliency",
    epilog="Example: dnabert2 explain saliency --model runs/promoters/model --data promoters.fa --target promoter "
    "--out runs/saliency.npz",
)
def saliency(
    *,
    out: Out,
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    data: options.Data = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    target: Target = None,
    plot: Plot = None,
    plot_format: PlotFormat = "png",
    page: Page = None,
    modisco: Modisco = None,
    max_tokens: options.MaxTokens = None,
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    precision: Precision = "float32",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Gradient times input of a classifier.

    The quickest of the methods: one backward pass for each sequence. A token's bases share alike.
    """
    source = _Source(data, fasta, bed, tuple(region or ()), bad_records)
    written = _Written("saliency", out, plot, plot_format, page, modisco, force)
    compute = _Compute(model, adapter, base, precision, attention)
    _explain(source, written, compute, target=target, max_tokens=max_tokens, batch_tokens=batch_tokens)


@explain.command(
    "attention",
    epilog="Example: dnabert2 explain attention --model runs/pretrain/model --fasta hg38.fa "
    "--region chr22:19,710,600-19,710,900 --layers 8-11 --out runs/attention.npz",
)
def attention(
    *,
    out: Out,
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    data: options.Data = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    layers: Layers = None,
    heads: Heads = None,
    resolution: Annotated[Resolution, Option(help="Between tokens, or between bases.")] = "token",
    plot: Plot = None,
    plot_format: PlotFormat = "png",
    page: Page = None,
    bad_records: options.BadRecords = "error",
    force: options.Force = False,
) -> None:
    """Attention matrices of layers and heads.

    Computed by definition in float32, whichever attention backend runs otherwise.
    """
    source = _Source(data, fasta, bed, tuple(region or ()), bad_records)
    written = _Written("attention", out, plot, plot_format, page, None, force)
    chosen = {"layers": parse_numbers("--layers", layers), "heads": parse_numbers("--heads", heads)}
    compute = _Compute(model, adapter, base, "float32", "auto")
    _explain(source, written, compute, **chosen, resolution=resolution)


@explain.command(
    "dependency",
    epilog="Example: dnabert2 explain dependency --model runs/pretrain/model --fasta hg38.fa "
    "--region chr22:19,710,600-19,710,700 --out runs/dependency.npz --plot runs/dependency",
)
def dependency(
    *,
    out: Out,
    model: options.Model = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    data: options.Data = None,
    fasta: options.Fasta = None,
    bed: options.Bed = None,
    region: options.Region = None,
    plot: Plot = None,
    plot_format: PlotFormat = "png",
    page: Page = None,
    max_tokens: options.MaxTokens = None,
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    precision: Precision = "float32",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Which bases depend on which, for a masked language model.

    How far the log-odds of each base change when another one is substituted: 24 inputs for each base.
    """
    source = _Source(data, fasta, bed, tuple(region or ()), bad_records)
    written = _Written("dependency", out, plot, plot_format, page, None, force)
    compute = _Compute(model, adapter, base, precision, attention)
    _explain(source, written, compute, max_tokens=max_tokens, batch_tokens=batch_tokens)


@dataclass(frozen=True)
class _Source:
    """Sequences of a file, or intervals of a genome."""

    data: Path | None
    fasta: Path | None
    bed: Path | None
    regions: tuple[str, ...]
    bad_records: BadRecordPolicy

    def check(self) -> None:
        """Refuse options that do not go together, before any work."""
        if (self.data is None) == (self.fasta is None):
            raise UserError("give either --data FILE, or --fasta GENOME with --bed or --region")
        if (self.fasta is None) != (self.bed is None and not self.regions):
            need = "--bed FILE or --region CONTIG:START-END" if self.fasta else "--fasta GENOME instead of --data"
            raise UserError(f"intervals are read from a genome: add {need}")

    def record(self) -> dict[str, Any]:
        """What to record of it with the output."""
        intervals = {} if self.fasta is None else {"bed": self.bed and str(self.bed), "regions": list(self.regions)}
        return {"data": str(self.data or self.fasta), **intervals}

    def read(self) -> "tuple[Sequences, Places]":
        """The sequences, and of intervals their places."""
        from dnabert2_jax.data.intervals import Intervals
        from dnabert2_jax.data.reading import read_sequences
        from dnabert2_jax.genome.reference import Reference
        from dnabert2_jax.interpretation.inputs import read_intervals

        if self.fasta is None:
            sequences = read_sequences(self.data or Path(), bad_records=self.bad_records)
            remark(sequences.summary())
            return sequences, {}
        sequences, places = read_intervals(Intervals(Reference(self.fasta), self.bed, self.regions, self.bad_records))
        remark(sequences.summary())
        return sequences, places


@dataclass(frozen=True)
class _Written:
    """What is written."""

    method: ExplainMethod
    out: Path
    plot: Path | None
    plot_format: Literal["png", "svg", "pdf"]
    page: Path | None
    modisco: Path | None
    force: bool

    def check(self) -> None:
        """Refuse before any work what could not be written after it."""
        from dnabert2_jax.inference.output import check_output
        from dnabert2_jax.interpretation.results import SUFFIXES

        check_output(self.out, SUFFIXES)
        if self.page is not None:
            check_output(self.page, (".html",))
        for path in (self.out, self.plot, self.page, self.modisco):
            if path is not None:
                refuse_overwriting(path, force=self.force)


@dataclass(frozen=True)
class _Compute:
    """Which model, and how to compute."""

    model: Path | None
    adapter: Path | None
    base: Path | None
    precision: PrecisionOption
    attention: str


def _explain(source: _Source, written: _Written, compute: _Compute, **how: Any) -> None:
    """Read, explain, and write everything that was asked for."""
    from dnabert2_jax.inference.record import make_record
    from dnabert2_jax.interpretation.explain import explain as explain_sequences
    from dnabert2_jax.interpretation.modisco import check_lengths, save_modisco
    from dnabert2_jax.interpretation.results import save_explanations
    from dnabert2_jax.reports.explanation import MOST_PICTURES, explanation_page, save_pictures
    from dnabert2_jax.reports.page import write_page

    source.check()
    written.check()
    opened = open_named(compute.model, compute.adapter, compute.base, compute.precision, compute.attention)
    sequences, places = source.read()
    if written.modisco is not None:
        check_lengths(sequences)
    method = written.method
    results = explain_sequences(opened, sequences, method, "explaining", **how)
    settings = {name: value for name, value in how.items() if name != "batch_tokens"}
    record = make_record(opened, f"explain {method}", **source.record(), **settings)
    save_explanations(written.out, results, record, places)
    print_saved(written.out)
    if written.plot is not None:
        save_pictures(written.plot, results, written.plot_format)
        print_saved(written.plot)
    if written.page is not None:
        write_page(written.page, explanation_page(method, results, record, places).html())
        print_saved(written.page)
    if len(results) > MOST_PICTURES and (written.plot or written.page):
        remark(f"pictures are of the first {MOST_PICTURES} sequences")
    if written.modisco is not None:
        save_modisco(written.modisco, results, force=written.force)  # type: ignore[arg-type]
        print_saved(written.modisco)


def parse_numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Numbers as users list them: ``0,3`` and ``8-11``; none for all.

    Raises:
        UserError: not of this form.
    """
    numbers: list[int] = []
    for part in text.split(",") if text is not None else ():
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(last) >= int(first))):
            raise UserError(f"{option} {text}: not a list of numbers; accepted are forms such as 0,3 and 8-11")
        numbers += range(int(first), int(last if dash else first) + 1)
    return tuple(numbers)
