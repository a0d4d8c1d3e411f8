"""``dnabert2 finetune`` and ``evaluate``."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import Base, Config, MaxTokens, Precision, ReverseComplement, Set, Workdir
from dnabert2_jax.progress import remark


@app.command(
    epilog="Example: dnabert2 finetune --config configs/finetune.toml --workdir runs/promoters "
    "--set model.path=runs/pretrain/model"
)
def finetune(workdir: Workdir, config: Config = None, set_: Set = None) -> None:
    """Fine-tune a classifier or a regression on tables.

    All parameters, a LoRA adapter, or a linear probe. Rerun the same command to resume a stopped or killed run.
    """
    from dnabert2_jax.config.loading import load_run
    from dnabert2_jax.config.runs import FinetuneRun

    run = load_run(FinetuneRun, config, set_ or ())
    from dnabert2_jax.metrics.tasks import TASK_METRICS
    from dnabert2_jax.recipes.finetuning import finetune as finetune_run
    from dnabert2_jax.reports.run import finetuning_notes

    result = finetune_run(run, workdir)
    shown = TASK_METRICS[run.data.task].summary(result.test, result.intervals)
    remark(f"test {shown}  ({result.test['n']:,} rows; 95% intervals)")
    for note in finetuning_notes(workdir):
        remark(f"warning: {note}")
    if result.adapter:
        remark(f"the adapter alone is in {result.adapter}; the model below has it merged")
    print(f"saved {result.model}, scores in {workdir / 'scores.json'}")


@app.command(epilog="Example: dnabert2 evaluate --model runs/promoters/model --data test.csv --out runs/test_scores.json")
def evaluate(
    model: Annotated[Path, Option(help="Classifier or adapter directory.")],
    data: Annotated[Path, Option(help="Table with a header: sequence,label or sequence1,sequence2,label.")],
    out: Annotated[Path, Option(help="JSON file for the scores.")],
    base: Base = None,
    batch_size: Annotated[int, Option(min=1, help="Rows per batch.")] = 64,
    max_tokens: MaxTokens = None,
    reverse_complement: ReverseComplement = False,
    precision: Precision = "auto",
) -> None:
    """Score a classifier on a labeled table.

    MCC, macro F1, accuracy, AUROC and more; correlations and errors for a regression. Longer rows are truncated, counted and
    reported.
    """
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.data.reading import read_table
    from dnabert2_jax.inference.model import InferenceModel
    from dnabert2_jax.inference.output import check_output
    from dnabert2_jax.inference.prediction import predict
    from dnabert2_jax.inference.record import RECORD, make_record
    from dnabert2_jax.metrics.intervals import confidence_intervals
    from dnabert2_jax.metrics.scores import save_metrics
    from dnabert2_jax.metrics.tasks import metrics_for
    from dnabert2_jax.modeling.compute import resolve_compute

    check_output(out, (".json",))
    table = read_table(data)
    classifier = InferenceModel.load(model, resolve_compute(precision), base)
    classifier.need("classifier", "scoring", "train one with `dnabert2 finetune`")
    labels = saved_labels(classifier.head, classifier.labels)
    encoded_labels = labels.encode(table)
    remark(table.summary())
    predictions = predict(
        classifier,
        table,
        max_tokens=max_tokens,
        long="cut",
        reverse_complement=reverse_complement,
        batch_tokens=batch_size * (max_tokens or classifier.head.max_tokens),
        title="predicting",
    )
    if summary := predictions.summary():
        remark(summary)
    metrics = metrics_for(labels)
    scores = metrics.compute(encoded_labels, predictions.outputs, labels)
    intervals = confidence_intervals(classifier.head.task, encoded_labels, predictions.outputs)
    settings = {"max_tokens": predictions.max_tokens, "reverse_complement": reverse_complement}
    record = make_record(classifier, "evaluate", data=str(data), **settings)
    save_metrics(out, {**scores, "intervals": intervals, RECORD: record})
    remark(f"{metrics.summary(scores, intervals)}  ({scores['n']:,} rows; 95% intervals)")
    if scores["collapsed"]:
        remark("warning: every row got the same prediction: the classifier has collapsed, or does not fit this table")
    print(f"saved {out}")
