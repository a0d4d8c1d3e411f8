"""``dnabert2 track``: a model's output along a genome, for genome browsers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.output import print_saved
from dnabert2_jax.config.inference import TrackFormat, TrackStrand, TrackValues
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

_DEFAULT_STEP = 128


@app.command(
    epilog="Example: dnabert2 track --model runs/promoters/model --fasta hg38.fa --region chr22:19,700,000-19,720,000 "
    "--out runs/tracks"
)
@options.with_option_groups
def track(
    fasta: Annotated[Path, Option(parser=options.local_path, help="Genome, a plain or bgzip FASTA file.")],
    out: Annotated[Path, Option(parser=options.local_path, help="Directory to create.")],
    model: options.ComputedModel,
    bed: Annotated[
        Path | None, Option(parser=options.local_path, help="Intervals to cover.", show_default="the whole genome")
    ] = None,
    region: options.Region = None,
    window: Annotated[
        int | None,
        Option(
            min=1,
            metavar="BASES",
            help="Bases per window.",
            show_default="512; as in training if the model labels every base",
        ),
    ] = None,
    step: Annotated[
        int | None, Option(min=1, metavar="BASES", help="Classifier only: bases per bin.", show_default=str(_DEFAULT_STEP))
    ] = None,
    strand: Annotated[TrackStrand, Option(help="Strand to read; bed: that of each interval.")] = "+",
    values: Annotated[TrackValues, Option(help="Masked language model only; auto is logp and entropy.")] = "auto",
    format_: Annotated[TrackFormat, Option("--format", help="Files to write.")] = "bigwig",
    threshold: Annotated[float | None, Option(help="With --format bed: minimum probability.", show_default="0.5")] = None,
    merge: Annotated[
        int | None,
        Option(
            min=0, metavar="BASES", help="With --format bed, labels at every base: maximum gap to fill.", show_default="0"
        ),
    ] = None,
    min_length: Annotated[
        int | None,
        Option(min=1, metavar="BASES", help="With --format bed, labels at every base: minimum length.", show_default="1"),
    ] = None,
    max_tokens: options.MaxTokens = None,
    bad_records: options.BadRecords = "error",
    batch_tokens: options.BatchTokens = None,
    force: options.Force = False,
) -> None:
    """Write tracks of a genome for genome browsers.

    A classifier gives the probability of each class in bins of --step bases: the mean over the windows that cover a bin. A
    model of labels at every base gives the probability of each label at each base, or with --format bed the segments that
    such bases form. A masked language model gives, at each base, the log-probability of the genome's base and the entropy
    of the four, or a sequence logo with a hub for the UCSC browser. Bases that were not scored are left out.
    """
    from dnabert2_jax.data.intervals import Intervals
    from dnabert2_jax.genome.reference import Reference
    from dnabert2_jax.inference.record import make_record
    from dnabert2_jax.inference.tracks.bases import BaseTrack
    from dnabert2_jax.inference.tracks.bins import ClassTrack
    from dnabert2_jax.inference.tracks.files import check_format, save_track
    from dnabert2_jax.inference.tracks.labels import LabelTrack
    from dnabert2_jax.inference.tracks.segments import SegmentRules
    from dnabert2_jax.inference.tracks.stretches import plan_stretches
    from dnabert2_jax.inference.tracks.values import DEFAULT_WINDOW

    if strand == "bed" and bed is None:
        raise UserError("--strand bed takes the strand from column 6 of a BED file; add --bed FILE")
    if values == "logo" and format_ != "bigwig":
        raise UserError("--values logo is a hub of bigWig files; leave --format out")
    refuse_overwriting(out, force=force)
    opened = model.open()
    if opened.kind != "masked_lm" and values != "auto":
        raise UserError(f"--values {values} is for a masked language model, and {opened.path} is a classifier; leave it out")
    if opened.kind != "classifier" and (step, max_tokens) != (None, None):
        option = "--max-tokens" if step is None else "--step"
        what = "a masked language model, which scores" if opened.kind == "masked_lm" else "a model that labels"
        raise UserError(f"{option} is for a classifier, and {opened.path} is {what} every base")
    if (opened.kind != "base_classifier" or format_ != "bed") and (merge, min_length) != (None, None):
        option = "--min-length" if merge is None else "--merge"
        raise UserError(f"{option} is for --format bed of a model that labels every base; leave it out")
    check_format(format_, threshold, probabilities=opened.kind != "masked_lm" and opened.head.task != "regression")
    least = 0.5 if threshold is None else threshold
    stretches = plan_stretches(Intervals(Reference(fasta), bed, tuple(region or ()), bad_records), strand)
    bins = step or _DEFAULT_STEP
    computed: ClassTrack | LabelTrack | BaseTrack
    settings: dict[str, Any]
    rules: SegmentRules | None = None
    if opened.kind == "base_classifier":
        computed = LabelTrack(opened, stretches, window, batch_tokens, title="scoring windows")
        window = computed.read
        if format_ == "bed":
            rules = SegmentRules(least, merge or 0, min_length or 1)
        settings = {"segments": rules and asdict(rules)}
        if opened.provenance.get("run_config", {}).get("data", {}).get("stranded") and strand == "+":
            remark("this model labels the strand that it reads, here the plus strand; --strand both reads both")
    elif opened.kind == "classifier":
        window = DEFAULT_WINDOW if window is None else window
        computed = ClassTrack(opened, stretches, window, bins, max_tokens, batch_tokens, title="scoring windows")
        settings = {"step": bins, "max_tokens": max_tokens or opened.head.max_tokens, "threshold": threshold}
    else:
        window = DEFAULT_WINDOW if window is None else window
        computed = BaseTrack(opened, stretches, window, values, batch_tokens, title="scoring windows")
        settings = {"values": values}
    remark(f"{stretches.summary()}; {computed.windows:,} windows of {window:,} bases: {', '.join(computed.channels)}")
    places = {"data": str(fasta), "bed": bed and str(bed), "regions": region or [], "strand": strand, "window": window}
    record = make_record(opened, "track", **places, **settings)
    files = save_track(
        out,
        computed,
        format_,
        record,
        threshold=least,
        segments=rules,
        logo_genome=fasta.name.partition(".")[0] if values == "logo" else None,
        force=force,
    )
    if isinstance(computed, ClassTrack) and computed.unscored:
        remark(f"windows with more unknown bases than A, C, G and T: {computed.unscored:,}, which have no value")
    remark(f"{len(files)} files: {', '.join(file.name for file in files)}")
    print_saved(out)
