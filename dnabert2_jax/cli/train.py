"""``dnabert2 pretrain``, ``finetune``, ``evaluate`` and ``quickstart``."""

from pathlib import Path
from typing import Annotated

import typer

from dnabert2_jax.config.model import PrecisionOption
from dnabert2_jax.progress import remark

commands = typer.Typer()

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of the run; see configs/.")]
WorkdirOption = Annotated[Path, typer.Option("--workdir", help="The run's directory; the same one again goes on.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key of the run; may be given many times.")
]


@commands.command(
    epilog="Example: dnabert2 pretrain --config configs/pretrain_3m.toml --workdir runs/pretrain "
    "--set data.corpus=runs/corpus"
)
def pretrain(
    workdir: WorkdirOption,
    config: Config = None,
    set_: Set = None,
    coordinator: Annotated[
        str | None, typer.Option(envvar="JAX_COORDINATOR_ADDRESS", help="Several processes: HOST:PORT of process 0.")
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(envvar="JAX_NUM_PROCESSES", min=1, help="Several processes: how many.")
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(envvar="JAX_PROCESS_ID", min=0, help="Several processes: which one this is.")
    ] = None,
) -> None:
    """Pretrain an encoder by masked language modelling. Started again with the same command, a killed run goes on.

    On several hosts, start the same command on each. TPU pods and Slurm are recognised; elsewhere the last three options say
    how the processes find each other. Scripts for all of these are in launch/.
    """
    from dnabert2_jax.config.loading import load_run
    from dnabert2_jax.config.runs import PretrainRun
    from dnabert2_jax.parallel.processes import ending_with_the_others, is_first, start_processes

    run = load_run(PretrainRun, config, set_ or ())
    start_processes(coordinator, num_processes, process_id)
    from dnabert2_jax.recipes.pretraining import pretrain as pretrain_run

    with ending_with_the_others():
        model = pretrain_run(run, workdir)
    if not is_first():
        return
    scores = model.provenance["metrics"]
    remark(
        f"held-out loss {scores['loss']:.4f} nats a token, perplexity {scores['perplexity']:.1f}, "
        f"masked accuracy {scores['masked_accuracy']:.3f}"
    )
    print(f"saved {model.path}")


@commands.command(
    epilog="Example: dnabert2 finetune --config configs/finetune.toml --workdir runs/promoters "
    "--set model.path=runs/pretrain/model"
)
def finetune(workdir: WorkdirOption, config: Config = None, set_: Set = None) -> None:
    """Fine-tune a classifier on tables, fully or with a LoRA adapter. Started again, a killed run goes on."""
    from dnabert2_jax.config.loading import load_run
    from dnabert2_jax.config.runs import FinetuneRun

    run = load_run(FinetuneRun, config, set_ or ())
    from dnabert2_jax.metrics.scores import collapse_advice
    from dnabert2_jax.metrics.tasks import TASK_METRICS
    from dnabert2_jax.recipes.finetuning import finetune as finetune_run

    result = finetune_run(run, workdir)
    remark(f"test {TASK_METRICS[run.data.task].summary(result.test)}  ({result.test['n']:,} rows)")
    if result.test["collapsed"]:
        remark(f"every test row was predicted alike: the run collapsed; {collapse_advice(run.training.method)}")
    if result.adapter:
        remark(f"adapter alone in {result.adapter}; the model below has it merged")
    print(f"saved {result.model}, scores in {workdir / 'scores.json'}")


@commands.command(
    epilog="Example: dnabert2 evaluate --model runs/promoters/model --data test.csv --out runs/test_scores.json"
)
def evaluate(
    model: Annotated[Path, typer.Option(help="Classifier directory, or adapter directory.")],
    data: Annotated[Path, typer.Option(help="Table with a header: sequence,label or sequence1,sequence2,label.")],
    out: Annotated[Path, typer.Option(help="JSON file for the scores.")],
    base: Annotated[Path | None, typer.Option(help="The adapter's base, if it is not where the adapter says.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 64,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=8, help="Longer rows are cut, counted and reported.", show_default="the model's own"),
    ] = None,
    reverse_complement: Annotated[
        bool, typer.Option("--reverse-complement", help="Score the mean over both strands.")
    ] = False,
    precision: Annotated[PrecisionOption, typer.Option(help="auto is bfloat16 on GPU and TPU, float32 on CPU.")] = "auto",
) -> None:
    """Score a classifier on a labelled table: MCC, macro F1, accuracy, AUROC and more; of a regression, correlations."""
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


@commands.command(epilog="Example: dnabert2 quickstart --workdir runs/quickstart")
def quickstart(
    workdir: Annotated[Path, typer.Option(help="Directory for everything that is made.")] = Path("runs/quickstart"),
) -> None:
    """Run the main job on real yeast DNA in minutes: tokenizer, corpus, pretraining, fine-tuning (full and LoRA), scores."""
    from dnabert2_jax.recipes.quickstart import quickstart as run_quickstart

    run_quickstart(workdir)
