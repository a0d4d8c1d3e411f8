"""``dnabert2 variants`` and ``evaluate-variants``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

from typer import Option

from dnabert2_jax.cli import options
from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.output import check_page, print_saved, print_table
from dnabert2_jax.config.inference import RefMismatch, Strands, VariantScore
from dnabert2_jax.errors import UserError, counted
from dnabert2_jax.progress import console, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting


@app.command(
    epilog="Example: dnabert2 variants --model runs/pretrain/model --fasta genome.fa --variants calls.vcf.gz "
    "--out runs/scored.vcf.gz",
)
def variants(
    model: Annotated[Path, Option(parser=options.path, help="Model, adapter or Hugging Face directory, or hf:OWNER/NAME.")],
    fasta: Annotated[Path, Option(parser=options.local_path, help="Reference genome: FASTA, plain or bgzip (.fa, .fa.gz).")],
    variants: Annotated[
        Path, Option(parser=options.local_path, help="Variants: .vcf, .vcf.gz, .bcf, or a table (.csv, .tsv).")
    ],
    out: Annotated[
        Path | None, Option(parser=options.local_path, help="Annotated VCF to write: .vcf, .vcf.gz or .bcf.")
    ] = None,
    table: Annotated[
        Path | None, Option(parser=options.local_path, help="Table to write, a row per allele: .csv, .tsv, .parquet.")
    ] = None,
    page: Annotated[
        Path | None, Option(parser=options.local_path, help="HTML page to write, with the distribution of the scores.")
    ] = None,
    base: options.Base = None,
    scores: Annotated[str, Option(metavar="LIST", help="auto, or some of llr,emb,pll,delta.")] = "auto",
    splice: Annotated[
        str | None,
        Option(metavar="acceptor=A,donor=D", help="Labels of splice sites: score their gain and loss near variants."),
    ] = None,
    distance: Annotated[int, Option(min=1, metavar="BASES", help="How near, with --splice.")] = 50,
    flank: Annotated[int, Option(min=1, metavar="BASES", help="Bases read on either side of a variant.")] = 256,
    strand: Annotated[Strands, Option(help="Mean of both strands, or the given one.")] = "both",
    max_span: Annotated[int, Option(min=1, metavar="BASES", help="Longest changed stretch that is scored.")] = 64,
    shifts: Annotated[
        int, Option(min=0, metavar="N", help="Mean with N windows moved to either side, by up to half a flank.")
    ] = 0,
    tokenization_noise: Annotated[
        int, Option(min=0, metavar="N", help="Spread of delta over N other segmentations of the same bases into tokens.")
    ] = 0,
    ref_mismatch: Annotated[RefMismatch, Option(help="A REF that differs from the FASTA file: mark it, or stop.")] = "skip",
    batch_tokens: options.BatchTokens = None,
    precision: options.Precision = "auto",
    attention: options.Attention = "auto",
    force: options.Force = False,
) -> None:
    """Score genetic variants.

    A masked language model gives llr, the log-likelihood ratio of ALT and REF; a classifier gives delta, the change of its
    log-odds; both give emb, how far the embeddings around the variant move. A model that labels splice sites at every base
    tells with --splice which are gained and lost. No record is dropped: each allele has a status.
    """
    from dnabert2_jax.genome.reference import Reference
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.inference.record import make_record
    from dnabert2_jax.modeling.compute import resolve_compute
    from dnabert2_jax.storage.unfinished import check_destinations
    from dnabert2_jax.variants.alleles import MEANINGS
    from dnabert2_jax.variants.annotation import check_outputs, plan_annotation
    from dnabert2_jax.variants.evaluation import is_score
    from dnabert2_jax.variants.records import TABLE_SUFFIXES, open_variants
    from dnabert2_jax.variants.scored import read_back
    from dnabert2_jax.variants.scoring import ScoringOptions, checked_scores
    from dnabert2_jax.variants.splice import SpliceLabels

    source = open_variants(variants)
    check_outputs(source, out, table)
    check_page(page, force=force)
    if page is not None and out is None and table is not None and table.suffix not in TABLE_SUFFIXES:
        raise UserError(f"--page {page} reads what was written: add --out, or make the table {', '.join(TABLE_SUFFIXES)}")
    written = [path for path in (out, table) if path is not None]
    check_destinations(written, force=force)
    opened = InferenceModel.load(model, resolve_compute(precision, attention), base)
    named = () if scores == "auto" else tuple(name.strip() for name in scores.split(","))
    sites = SpliceLabels.parse(splice, distance) if splice else None
    wanted = checked_scores(opened, cast(tuple[VariantScore, ...], named)) if named or not sites else ()
    how = ScoringOptions(wanted, flank, strand, max_span, batch_tokens, sites, shifts, tokenization_noise)
    with Reference(fasta) as reference:
        job = plan_annotation(opened, reference, source, how, ref_mismatch=ref_mismatch)
        remark(
            f"{variants}: {counted(job.survey.records, 'record')}, {counted(job.survey.alleles, 'alternative allele')}; "
            f"scores {', '.join((*wanted, *(['splice'] if sites else [])))}"
        )
        if renamed := job.survey.renamed():
            remark(renamed)
        settings: dict[str, Any] = {"scores": list(wanted), "flank": flank, "strand": strand, "max_span": max_span}
        settings |= {"shifts": shifts, "tokenization_noise": tokenization_noise}
        if sites:
            settings["splice"] = asdict(sites)
        record = make_record(opened, "variants", variants=str(variants), fasta=str(fasta), **settings)
        statuses = job.run(out, table, record, force=force, title="scoring")
    for status, count in statuses.most_common():
        remark(f"{count:,} {status}: {MEANINGS[status]}")
    if page is not None:
        from dnabert2_jax.reports.page import write_page
        from dnabert2_jax.reports.variants import variants_page

        alleles = read_back(written[0], [field for field in job.scorer.fields if is_score(field.column)])
        written.append(write_page(page, variants_page(alleles, record)))
    for path in written:
        print_saved(path)


@app.command(
    "evaluate-variants",
    epilog="Example: dnabert2 evaluate-variants --table runs/scored.tsv --effect Coefficient --fasta genome.fa.gz "
    "--out runs/agreement.json",
)
def evaluate_variants(
    *,
    table: Annotated[Path, Option(parser=options.local_path, help="Table that dnabert2 variants wrote (.csv, .tsv).")],
    out: Annotated[Path, Option(parser=options.path, help="JSON file for the results, or - for standard output.")],
    effect: Annotated[str | None, Option(metavar="COLUMN", help="Its column of measured effects.")] = None,
    label: Annotated[str | None, Option(metavar="COLUMN", help="Or its column of labels.")] = None,
    positive: Annotated[str | None, Option(metavar="VALUE", help="The label that counts as positive.")] = None,
    fasta: Annotated[
        Path | None, Option(parser=options.local_path, help="Reference genome, to show floors beside the scores.")
    ] = None,
    page: Annotated[
        Path | None, Option(parser=options.local_path, help="HTML page to write, with ROC curves or scatter plots.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Compare scores with measured effects or labels.

    The columns of measurements are those that the input of dnabert2 variants had. Effects: Spearman's correlation; labels:
    AUROC and AUPRC. With --fasta, beside what the frequencies of bases and of 6-mers in the genome give.
    """
    import json

    from dnabert2_jax.genome.reference import Reference
    from dnabert2_jax.inference.output import check_output, is_standard_output
    from dnabert2_jax.storage.atomic import write_json
    from dnabert2_jax.variants.evaluation import agreements, as_rows, read_scored, with_floors
    from dnabert2_jax.variants.records import open_variants

    check_output(out, (".json",))
    refuse_overwriting(out, force=force)
    check_page(page, force=force)
    scored = read_scored(open_variants(table), effect=effect, label=label, positive=positive)
    left_out = f"; {scored.left_out:,} without a score or a measurement left out" if scored.left_out else ""
    remark(f"{table}: {counted(len(scored.records), 'allele')}{left_out}")
    if fasta is not None:
        with Reference(fasta) as reference:
            scored = with_floors(scored, reference)
    found = agreements(scored)
    measured = {"effect": effect} if effect else {"label": label, "positive": positive}
    result = {"table": str(table), **measured, "alleles": len(scored.records), "left_out": scored.left_out, "scores": found}
    print_table(as_rows(found), console)
    if is_standard_output(out, (".json",)):
        print(json.dumps(result, indent=2))
    else:
        write_json(out, result)
    print_saved(out)
    if page is not None:
        from dnabert2_jax.reports.page import write_page
        from dnabert2_jax.reports.variants import agreement_page

        print_saved(write_page(page, agreement_page(scored, found, {"table": table, **measured})))
