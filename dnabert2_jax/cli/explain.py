"""``dnabert2 explain``: what a model's output depends on, base by base."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.output import check_page, print_saved
from dnabert2_jax.config.inference import ExplainMethod, Resolution
from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

if TYPE_CHECKING:
    from dnabert2_jax.data.sequences import Sequences
    from dnabert2_jax.interpretation.results import Places

explain = group("explain", "Show what a model's output depends on, base by base.")

Target = Annotated[str | None, Option(metavar="CLASS", help="Class to explain; not needed for a regression.")]
Modisco = Annotated[
    Path | None, Option(parser=options.local_path, help="Directory for TF-MoDISco's input, ohe.npz and shap.npz.")
]
Layers = Annotated[str | None, Option(metavar="LIST", help="Layers, from 0, as in 0,11 or 8-11.", show_default="all")]
Heads = Annotated[str | None, Option(metavar="LIST", help="Heads, from 0, as in 0,3 or 4-7.", show_default="all")]


@dataclass(frozen=True, kw_only=True)
class Model(options.ComputedModel):
    """The model, and how to compute it."""

    precision: Annotated[PrecisionOption, Option(help="float32 is accurate; auto is bfloat16 on GPU and TPU.")] = "float32"


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written."""

    out: Annotated[Path, Option(parser=options.path, help="File to write: .npz or .h5.")]
    plot: Annotated[
        Path | None, Option(parser=options.local_path, help="Directory for a picture of each sequence, light and dark.")
    ] = None
    plot_format: Annotated[Literal["png", "svg", "pdf"], Option("--format", help="With --plot: format of the pictures.")] = (
        "png"
    )
    page: Annotated[Path | None, Option(parser=options.local_path, help="HTML page to write, with pictures.")] = None
    force: options.Force = False

    def check(self, modisco: Path | None) -> None:
        """Refuse before any work what could not be written after it."""
        from dnabert2_jax.inference.output import check_output
        from dnabert2_jax.interpretation.results import SUFFIXES

        check_output(self.out, SUFFIXES)
        check_page(self.page, force=self.force)
        for path in (self.out, self.plot, modisco):
            if path is not None:
                refuse_overwriting(path, force=self.force)


@explain.command(
    "ism",
    epilog="Example: dnabert2 explain ism --model runs/promoters/model --fasta hg38.fa --region chr22:19,710,600-19,710,900 "
    "--target promoter --out runs/ism.npz --page runs/ism.html",
)
@options.with_option_groups
def ism(
    model: Model,
    source: options.Input,
    output: Output,
    target: Target = None,
    modisco: Modisco = None,
    max_tokens: options.MaxTokens = None,
    batch_tokens: options.BatchTokens = None,
) -> None:
    """Substitute every base by each other one.

    For a classifier, how each of the four bases at a site changes the log-odds of a class (or a regression's measurement);
    for a masked language model, the log-probabilities of the four bases.
    """
    _explain("ism", source, output, model, modisco, target=target, max_tokens=max_tokens, batch_tokens=batch_tokens)


@explain.command(
    "ig",
    epilog="Example: dnabert2 explain ig --model runs/promoters/model --data promoters.fa --target promoter "
    "--out runs/ig.h5 --modisco runs/modisco",
)
@options.with_option_groups
def ig(
    model: Model,
    source: options.Input,
    output: Output,
    target: Target = None,
    points: Annotated[int, Option(min=1, help="Points of the integral; more are more accurate.")] = 64,
    modisco: Modisco = None,
    max_tokens: options.MaxTokens = None,
    batch_tokens: options.BatchTokens = None,
) -> None:
    """Integrated gradients of a classifier.

    Contributions of tokens, which add up to the output minus that of a sequence of [MASK]; each token's contribution is
    divided evenly over its bases.
    """
    how: dict[str, Any] = {"target": target, "points": points, "max_tokens": max_tokens, "batch_tokens": batch_tokens}
    _explain("ig", source, output, model, modisco, **how)


@explain.command(
    "saliency",
    epilog="Example: dnabert2 explain saliency --model runs/promoters/model --data promoters.fa --target promoter "
    "--out runs/saliency.npz",
)
@options.with_option_groups
def saliency(
    model: Model,
    source: options.Input,
    output: Output,
    target: Target = None,
    modisco: Modisco = None,
    max_tokens: options.MaxTokens = None,
    batch_tokens: options.BatchTokens = None,
) -> None:
    """Gradient times input of a classifier.

    The fastest method: one backward pass per sequence. Each token's contribution is divided evenly over its bases.
    """
    _explain("saliency", source, output, model, modisco, target=target, max_tokens=max_tokens, batch_tokens=batch_tokens)


@explain.command(
    "attention",
    epilog="Example: dnabert2 explain attention --model runs/pretrain/model --fasta hg38.fa "
    "--region chr22:19,710,600-19,710,900 --layers 8-11 --out runs/attention.npz",
)
@options.with_option_groups
def attention(
    model: options.NamedModel,
    source: options.Input,
    output: Output,
    layers: Layers = None,
    heads: Heads = None,
    resolution: Annotated[Resolution, Option(help="Between tokens, or between bases.")] = "token",
) -> None:
    """Attention matrices of layers and heads.

    Computed by definition in float32, regardless of the attention backend.
    """
    of_layers, of_heads = parse_numbers("--layers", layers), parse_numbers("--heads", heads)
    _explain("attention", source, output, model, layers=of_layers, heads=of_heads, resolution=resolution)


@explain.command(
    "dependency",
    epilog="Example: dnabert2 explain dependency --model runs/pretrain/model --fasta hg38.fa "
    "--region chr22:19,710,600-19,710,700 --out runs/dependency.npz --plot runs/dependency",
)
@options.with_option_groups
def dependency(
    model: Model,
    source: options.Input,
    output: Output,
    max_tokens: options.MaxTokens = None,
    batch_tokens: options.BatchTokens = None,
) -> None:
    """Which bases depend on which, for a masked language model.

    How much the log-odds of each base change when another base is substituted: 24 inputs per base.
    """
    _explain("dependency", source, output, model, max_tokens=max_tokens, batch_tokens=batch_tokens)


def _explain(
    method: ExplainMethod,
    source: options.Input,
    output: Output,
    model: options.NamedModel,
    modisco: Path | None = None,
    **how: Any,
) -> None:
    """Read, explain, and write everything that was asked for."""
    from dnabert2_jax.inference.record import make_record
    from dnabert2_jax.interpretation.explain import explain as explain_sequences
    from dnabert2_jax.interpretation.modisco import check_lengths, save_modisco
    from dnabert2_jax.interpretation.results import save_explanations
    from dnabert2_jax.reports.explanation import MOST_PICTURES, explanation_page, save_pictures
    from dnabert2_jax.reports.page import write_page

    source.check()
    output.check(modisco)
    opened = model.open()
    sequences, places = _read(source)
    if modisco is not None:
        check_lengths(sequences)
    results = explain_sequences(opened, sequences, method, "explaining", **how)
    settings = {name: value for name, value in how.items() if name != "batch_tokens"}
    record = make_record(opened, f"explain {method}", **source.record(), **settings)
    save_explanations(output.out, results, record, places)
    print_saved(output.out)
    if output.plot is not None:
        save_pictures(output.plot, results, output.plot_format)
        print_saved(output.plot)
    if output.page is not None:
        print_saved(write_page(output.page, explanation_page(method, results, record, places)))
    if len(results) > MOST_PICTURES and (output.plot or output.page):
        remark(f"pictures show the first {MOST_PICTURES} sequences")
    if modisco is not None:
        save_modisco(modisco, results, force=output.force)  # type: ignore[arg-type]
        print_saved(modisco)


def _read(source: options.Input) -> "tuple[Sequences, Places]":
    """The sequences, and for intervals their places."""
    from dnabert2_jax.data.reading import read_sequences
    from dnabert2_jax.interpretation.inputs import read_intervals

    places: Places = {}
    if source.fasta is None:
        sequences = read_sequences(source.data or Path(), bad_records=source.bad_records)
    else:
        sequences, places = read_intervals(source.intervals(source.fasta))
    remark(sequences.summary())
    return sequences, places


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
