"""From three tables to a classifier: full fine-tuning, a LoRA adapter, or a linear probe on the encoder as it is."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dnabert2_jax.baselines.comparison import Baseline, kmer_baseline_if_feasible
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.metrics.scores import ClassificationMetrics, Scores, scores_without
from dnabert2_jax.recipes.finetuning_steps import train_by_steps
from dnabert2_jax.recipes.finetuning_task import open_task
from dnabert2_jax.recipes.probe import fit_probe
from dnabert2_jax.reports import report_finetuning
from dnabert2_jax.reports.run import saved_baseline


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning run came to.

    Attributes:
        model: the classifier directory (an adapter is merged into it).
        adapter: the adapter directory, or None where no adapter was trained.
        test: scores on the test table.
        dev: scores on the dev table at the evaluation that was kept.
        best_step: the step that was kept; of a probe, the number of its penalty.
        trained_parameters: scalars that learned.
        seconds: of training, evaluations included; of a run that went on, with those of earlier calls up to its checkpoint.
        first_step_seconds: from the start of training to the end of this call's first step, compiling included (of a probe,
            until all rows were embedded); None where there was none.
        clean: scores on the test rows whose sequence is in neither of the other tables; None if there are none, or no
            baseline.
    """

    model: Path
    adapter: Path | None
    test: Scores
    dev: Scores
    best_step: int
    trained_parameters: int
    seconds: float
    first_step_seconds: float | None
    clean: ClassificationMetrics | None


def finetune(run: FinetuneRun, workdir: Path, *, baseline: Baseline | None = None) -> Finetuned:
    """Train on one table, choose by a second, score on a third, and save.

    A run that was killed and started again goes on from its last evaluation and ends with the same parameters, bit for
    bit, on the same machine.

    Args:
        run: what to do.
        workdir: gets ``run.json``, ``metrics.jsonl``, ``checkpoints/``, ``model/`` (and ``adapter/``), ``scores.json``
            and ``report.html`` with what it shows.
        baseline: what the report compares the scores with, if it is known already.

    Raises:
        UserError: a path, a table, a setting or the directory cannot be used; the loss stopped being a number.
    """
    task = open_task(run, workdir)
    began = time.monotonic()
    trained = fit_probe(task) if run.training.method == "probe" else train_by_steps(task)
    test = task.target.scores(task.test.labels, trained.outputs)
    kept = trained.keeper.load()[1]
    trained.keeper.finish(test)
    clean = None
    baseline = baseline or saved_baseline(workdir) or kmer_baseline_if_feasible(task.splits)
    if baseline is not None:
        lines = np.array(task.splits.test.lines)
        clean = scores_without(task.test.labels, trained.outputs, task.labels.names, lines, baseline["leaked_lines"])
    result = Finetuned(
        model=task.directory.model,
        adapter=trained.keeper.adapter_path,
        test=test,
        dev=kept["dev"],
        best_step=kept["step"],
        trained_parameters=trained.trained_parameters,
        seconds=trained.earlier_seconds + time.monotonic() - began,
        first_step_seconds=trained.first_step_seconds,
        clean=clean,
    )
    scores = {**asdict(result), "model": str(result.model), "adapter": str(result.adapter or "")}
    task.directory.write_json("scores.json", scores)
    tables = {"train": task.train, "dev": task.dev, "test": task.test}
    report_finetuning(task.directory.path, task.splits, tables, trained.outputs, baseline)
    return result
