"""``dnabert2 finetune`` and ``evaluate``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

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
    Workdir,
    path,
)
from dnabert2_jax.cli.output import print_saved
from dnabert2_jax.config.inference import STANDARD_STREAM, BadRecordPolicy
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting


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
    from dnabert2_jax.config.kinds import load_finetuning

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
        list[Path], Option(parser=path, help="Directory of a classifier or adapter; repeat it for the mean of several.")
    ],
    data: Annotated[
        Path, Option(parser=path, help="Table with sequence,label or sequence1,sequence2,label; - for standard input.")
    ],
    out: Annotated[Path, Option(parser=path, help="JSON file for the scores, or - for standard output.")],
    base: Base = None,
    batch_size: Annotated[int, Option(min=1, help="Rows per batch.")] = 64,
    max_tokens: MaxTokens = None,
    reverse_complement: ReverseComplement = False,
    sequence_column: SequenceColumn = "sequence",
    label_column: LabelColumn = "label",
    label_map: Annotated[
        list[str] | None, Option(metavar="LABEL=NAME", help="What a label of the table is called; repeatable.")
    ] = None,
    bad_records: BadRecords = "error",
    force: Force = False,
    precision: Precision = "auto",
) -> None:
    """Score a classifier on a labeled table.

    MCC, macro F1, accuracy, AUROC and more; correlations and errors for a regression. Longer rows are truncated, counted and
    reported.
    """
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.data.reading import read_table
    from dnabert2_jax.inference.evaluation import evaluate as evaluate_model
    from dnabert2_jax.inference.output import check_output
    from dnabert2_jax.inference.record import RECORD, make_ensemble_record
    from dnabert2_jax.metrics.scores import save_metrics

    check_output(out, (".json",))
    refuse_overwriting(out, force=force)
    classifier, *ensemble = open_ensemble(model, None, base, precision, task="scoring")
    names = _label_map(label_map or ())
    table = read_table(
        data,
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
        batch_tokens=batch_size * (max_tokens or classifier.head.max_tokens),
        title="predicting",
    )
    if summary := evaluation.predictions.summary():
        remark(summary)
    remark(evaluation.summary())
    if evaluation.scores["collapsed"]:
        remark("warning: every row got the same prediction: the classifier has collapsed, or does not fit this table")
    settings = {"max_tokens": evaluation.predictions.max_tokens, "reverse_complement": reverse_complement}
    columns = {"sequence_column": sequence_column, "label_column": label_column, "label_map": names}
    record = make_ensemble_record([classifier, *ensemble], "evaluate", data=str(data), **columns, **settings)
    scores = {**evaluation.scores, "intervals": evaluation.intervals, RECORD: record}
    if str(out) == STANDARD_STREAM:
        print(json.dumps(scores, indent=2))
    else:
        save_metrics(out, scores)
    print_saved(out)


def _label_map(pairs: Sequence[str]) -> dict[str, str]:
    """The names of labels, from ``LABEL=NAME``."""
    names = {}
    for pair in pairs:
        label, equals, name = pair.partition("=")
        if not (label and equals and name):
            raise UserError(f"--label-map {pair}: accepted is LABEL=NAME, as in --label-map 1=promoter")
        names[label] = name
    return names
