"""``dnabert2 finetune`` and ``evaluate``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.models import open_ensemble
from dnabert2_jax.cli.options import (
    BadRecords,
    Base,
    Config,
    Force,
    LabelColumn,
    MaxTokens,
    Precision,
    ReverseComplement,
    SequenceColumn,
    Set,
    Views,
    Workdir,
    local_path,
    path,
)
from dnabert2_jax.cli.output import print_saved
from dnabert2_jax.config.inference import STANDARD_STREAM, BadRecordPolicy
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

_LABEL_COLUMN = "label"


@app.command(
    epilog="Example: dnabert2 finetune --config configs/finetune.toml --workdir runs/promoters "
    "--set model.path=runs/pretrain/model"
)
def finetune(
    workdir: Workdir,
    config: Config = None,
    set_: Set = None,
    sequence_column: Annotated[str | None, Option(help="Same as --set data.sequence_column.")] = None,
    label_column: Annotated[str | None, Option(help="Same as --set data.label_column.")] = None,
    bad_records: Annotated[
        BadRecordPolicy | None, Option(help="Same as --set data.bad_records.", show_default="error")
    ] = None,
) -> None:
    """Fine-tune on tables, or on the labels of a genome.

    All parameters, a LoRA adapter, or a linear probe. Rerun the same command to resume a stopped or killed run.
    """
    from dnabert2_jax.config.loading import load_finetuning

    options = {
        "data.sequence_column": sequence_column,
        "data.label_column": label_column,
        "data.bad_records": bad_records,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    run = load_finetuning(config, [*(set_ or ()), *given])
    from dnabert2_jax.metrics.tasks import TASK_METRICS
    from dnabert2_jax.recipes.finetuning import finetune as finetune_run
    from dnabert2_jax.reports.run import finetuning_notes
    from dnabert2_jax.training.goodput import account

    result = finetune_run(run, workdir)
    unit = "bases" if run.data.task == "per_base" else "rows"
    shown = TASK_METRICS[run.data.task].summary(result.test, result.intervals)
    remark(f"test {shown}  ({result.test['n']:,} {unit}; 95% intervals)")
    for note in finetuning_notes(workdir):
        remark(f"warning: {note}")
    if result.adapter:
        remark(f"the adapter alone is in {result.adapter}; the model below has it merged")
    if goodput := account(workdir):
        remark(f"time: {goodput.summary()}")
    print(f"saved {result.model}, scores in {workdir / 'scores.json'}")


@app.command(epilog="Example: dnabert2 evaluate --model runs/promoters/model --data test.csv --out runs/test_scores.json")
def evaluate(
    model: Annotated[
        list[Path],
        Option(metavar="DIR", parser=path, help="Directory of a classifier or adapter; repeat it for the mean of several."),
    ],
    out: Annotated[Path, Option(parser=path, help="JSON file for the scores, or - for standard output.")],
    data: Annotated[
        Path | None,
        Option(parser=path, help="Table with sequence,label or sequence1,sequence2,label; - for standard input."),
    ] = None,
    fasta: Annotated[
        Path | None, Option(parser=local_path, help="Genome, instead of --data: one row per interval of --bed.")
    ] = None,
    bed: Annotated[
        Path | None,
        Option(parser=local_path, help="Intervals of --fasta: label in column 4 or --label-column N, strand in column 6."),
    ] = None,
    region: Annotated[list[str] | None, Option(hidden=True, help="Of predict and embed; refused with the reason.")] = None,
    base: Base = None,
    batch_size: Annotated[int, Option(min=1, help="Rows per batch.")] = 64,
    max_tokens: MaxTokens = None,
    reverse_complement: ReverseComplement = False,
    views: Views = 1,
    sequence_column: SequenceColumn = "sequence",
    label_column: LabelColumn = _LABEL_COLUMN,
    label_map: Annotated[
        list[str] | None, Option(metavar="LABEL=NAME", help="The model's name for a label of the table; repeatable.")
    ] = None,
    bad_records: BadRecords = "error",
    force: Force = False,
    precision: Precision = "auto",
) -> None:
    """Score a classifier on a labeled table.

    MCC, macro F1, accuracy, AUROC and more; correlations and errors for a regression. Longer rows are truncated, counted and
    reported.
    """
    from dnabert2_jax.data.labeled_intervals import read_labeled_intervals
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.data.reading import read_table
    from dnabert2_jax.genome.reference import Reference
    from dnabert2_jax.inference.evaluation import evaluate as evaluate_model
    from dnabert2_jax.inference.output import check_output
    from dnabert2_jax.inference.record import RECORD, make_ensemble_record
    from dnabert2_jax.metrics.scores import save_metrics

    check_output(out, (".json",))
    refuse_overwriting(out, force=force)
    if region:
        raise UserError(
            f"--region {region[0]}: scores compare predictions with labels, and a region has none; give --bed FILE with "
            "labels in column 4, or use `dnabert2 predict`"
        )
    if (data is None) == (fasta is None) or (fasta is None) != (bed is None):
        raise UserError("give either --data TABLE, or --fasta GENOME with --bed FILE, whose column 4 holds the labels")
    classifier, *ensemble = open_ensemble(model, None, base, precision, task="scoring")
    names = _label_map(label_map or ())
    if fasta is not None and bed is not None:
        column = _bed_column(label_column)
        with Reference(fasta) as reference:
            table = read_labeled_intervals(reference, bed, label_column=column, label_map=names, bad_records=bad_records)
    else:
        table = read_table(
            data or Path(),
            sequence_column=sequence_column,
            label_column=label_column,
            label_map=names,
            bad_records=bad_records,
        )
    saved_labels(classifier.head, classifier.labels).encode(table)  # a table that does not fit gets no remark
    remark(table.summary())
    evaluation = evaluate_model(
        classifier,
        table,
        ensemble=ensemble,
        max_tokens=max_tokens,
        reverse_complement=reverse_complement,
        views=views,
        batch_tokens=batch_size * (max_tokens or classifier.head.max_tokens),
        title="predicting",
    )
    if summary := evaluation.predictions.summary():
        remark(summary)
    remark(evaluation.summary())
    if evaluation.scores["collapsed"]:
        remark("warning: every row got the same prediction: the classifier has collapsed, or does not fit this table")
    settings: dict[str, Any] = {"max_tokens": evaluation.predictions.max_tokens}
    settings |= {"reverse_complement": reverse_complement, "views": views}
    columns = {"sequence_column": sequence_column, "label_column": label_column, "label_map": names}
    places = {} if bed is None else {"bed": str(bed)}
    models = [classifier, *ensemble]
    record = make_ensemble_record(models, "evaluate", data=str(data or fasta), **places, **columns, **settings)
    scores = {**evaluation.scores, "intervals": evaluation.intervals, RECORD: record}
    if str(out) == STANDARD_STREAM:
        print(json.dumps(scores, indent=2))
    else:
        save_metrics(out, scores)
    print_saved(out)


def _bed_column(text: str) -> int:
    """The column of a BED file that holds the labels; unless one is given, that of the names."""
    from dnabert2_jax.data.intervals import NAME_COLUMN

    if text == _LABEL_COLUMN:
        return NAME_COLUMN
    if not text.isdecimal() or int(text) < NAME_COLUMN:
        raise UserError(f"--label-column {text}: with --bed, give the number of a column, {NAME_COLUMN} or more")
    return int(text)


def _label_map(pairs: Sequence[str]) -> dict[str, str]:
    """The names of labels, from ``LABEL=NAME``."""
    names = {}
    for pair in pairs:
        label, equals, name = pair.partition("=")
        if not (label and equals and name):
            raise UserError(f"--label-map {pair}: accepted is LABEL=NAME, as in --label-map 1=promoter")
        names[label] = name
    return names
