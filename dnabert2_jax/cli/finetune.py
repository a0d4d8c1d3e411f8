"""``dnabert2 finetune`` and ``evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

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
    from dnabert2_jax.metrics.scores import collapse_advice
    from dnabert2_jax.metrics.tasks import TASK_METRICS
    from dnabert2_jax.recipes.finetuning import finetune as finetune_run

    result = finetune_run(run, workdir)
    remark(f"test {TASK_METRICS[run.data.task].summary(result.test)}  ({result.test['n']:,} rows)")
    if result.test["collapsed"]:
        advice = collapse_advice(run.training.method)
        remark(f"every test row got the same prediction: the run collapsed; {advice}")
    if result.adapter:
        remark(f"the adapter alone is in {result.adapter}; the model below has it merged")
    print(f"saved {result.model}, scores in {workdir / 'scores.json'}")


@app.command(epilog="Example: dnabert2 evaluate --model runs/promoters/model --data test.csv --out runs/test_scores.json")
def evaluate(
    model: Annotated[Path, typer.Option(help="Classifier or adapter directory.")],
    data: Annotated[Path, typer.Option(help="Table with a header: sequence,label or sequence1,sequence2,label.")],
    out: Annotated[Path, typer.Option(help="JSON file for the scores.")],
    base: Base = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 64,
    max_tokens: MaxTokens = None,
    reverse_complement: ReverseComplement = False,
    precision: Precision = "auto",
) -> None:
    """Score a classifier on a labeled table.

    MCC, macro F1, accuracy, AUROC and more; correlations and errors for a regression. Longer rows are truncated, counted and
    reported.
    """
    from dnabert2_jax.data.tables import read_table
    from dnabert2_jax.inference.classify import Classifier
    from dnabert2_jax.inference.output import check_output
    from dnabert2_jax.metrics.scores import save_metrics
    from dnabert2_jax.metrics.tasks import metrics_for
    from dnabert2_jax.modeling.compute import resolve_compute

    check_output(out, (".json",))
    table = read_table(data)
    classifier = Classifier.load(model, resolve_compute(precision), base)
    outputs = classifier.score(table, batch_size=batch_size, max_tokens=max_tokens, reverse_complement=reverse_complement)
    metrics = metrics_for(classifier.labels)
    scores = metrics.compute(classifier.labels.encode(table), outputs, classifier.labels)
    save_metrics(out, scores)
    remark(f"{metrics.summary(scores)}  ({scores['n']:,} rows)")
    print(f"saved {out}")
