"""From three tables to a classifier: full fine-tuning, a LoRA adapter, or a linear probe on the encoder as it is."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dnabert2_jax.baselines.comparison import Baseline, kmer_baseline_if_feasible
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.checks import notes_on, tables_report
from dnabert2_jax.metrics.intervals import Intervals, confidence_intervals
from dnabert2_jax.metrics.scores import ClassificationMetrics, Scores, scores_without
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.finetuning_job import prepare
from dnabert2_jax.recipes.finetuning_steps import train_by_steps
from dnabert2_jax.recipes.probe import fit_probe
from dnabert2_jax.reports import report_finetuning
from dnabert2_jax.reports.run import saved_baseline
from dnabert2_jax.storage.paths import StrPath, as_path
from dnabert2_jax.training.goodput import Ledger


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning run.

    Attributes:
        model: the classifier directory (an adapter is merged into it).
        adapter: the adapter directory; None if no adapter was trained.
        test: scores on the test table.
        intervals: confidence intervals of the test scores.
        dev: scores on the dev table at the evaluation that was kept.
        best_step: the step that was kept; for a probe, the number of its penalty.
        trained_parameters: number of trainable parameters.
        seconds: training time, evaluations included; for a resumed run, with that of earlier calls up to its checkpoint.
        first_step_seconds: from the start of training to the end of this call's first step, compiling included (for a
            probe, until all rows were embedded); None if there was no step left.
        clean: scores on the test rows whose sequence is in neither of the other tables; None if there are none, or no
            baseline.
    """

    model: Path
    adapter: Path | None
    test: Scores
    intervals: Intervals
    dev: Scores
    best_step: int
    trained_parameters: int
    seconds: float
    first_step_seconds: float | None
    clean: ClassificationMetrics | None


def finetune(run: FinetuneRun, workdir: StrPath, *, baseline: Baseline | None = None) -> Finetuned:
    """Train on one table, select by a second, score on a third, save and report.

    A run that was stopped or killed resumes from its last checkpoint and ends with the same parameters, bit for bit, on the
    same machine.

    Args:
        run: what to do.
        workdir: gets ``run.json``, ``metrics.jsonl``, ``goodput.jsonl``, ``checkpoints/``, ``model/`` (and ``adapter/``),
            ``scores.json`` and ``report.html`` with what it shows.
        baseline: what the report compares the scores with, if it is known already.

    Raises:
        UserError: a path, a table, a setting or the directory cannot be used; training diverged.
        Stopped: SIGTERM or Ctrl-C asked for it; what was done is saved.
    """
    workdir = as_path(workdir)
    with Ledger() as ledger:
        job = prepare(run, workdir)
        tables = {"train": job.train, "dev": job.dev, "test": job.test}
        data = tables_report(job.splits, tables)
        for note in notes_on(data):  # before hours of training rather than after them
            remark(f"warning: {note}")
        began = time.monotonic()
        trained = fit_probe(job) if run.training.method == "probe" else train_by_steps(job, ledger)
    test = job.scores(job.test.labels, trained.outputs)
    trained.best.finish(test)
    seconds = trained.earlier_seconds + time.monotonic() - began

    clean = None
    baseline = baseline or saved_baseline(workdir) or kmer_baseline_if_feasible(job.splits)
    if baseline is not None:
        lines = np.array(job.splits.test.lines)
        clean = scores_without(job.test.labels, trained.outputs, job.labels.names, lines, baseline["leaked_lines"])
    result = Finetuned(
        model=job.directory.model,
        adapter=trained.best.adapter_path,
        test=test,
        intervals=confidence_intervals(run.data.task, job.test.labels, trained.outputs),
        dev=trained.best.metrics["dev"],
        best_step=trained.best.metrics["step"],
        trained_parameters=trained.trained_parameters,
        seconds=seconds,
        first_step_seconds=trained.first_step_seconds,
        clean=clean,
    )
    scores = {**asdict(result), "model": str(result.model), "adapter": str(result.adapter or "")}
    job.directory.write_json("scores.json", scores)
    report_finetuning(job.directory.path, data, job.splits, tables, trained.outputs, baseline)
    return result
