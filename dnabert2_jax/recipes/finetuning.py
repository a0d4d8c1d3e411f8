"""From three tables to a classifier: full fine-tuning, a LoRA adapter, or a linear probe on the encoder as it is."""

import time

import numpy as np

from dnabert2_jax.baselines.comparison import Baseline, kmer_baseline_if_feasible
from dnabert2_jax.config.loading import Finetuning
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.data.checks import notes_on, tables_report
from dnabert2_jax.metrics.intervals import confidence_intervals
from dnabert2_jax.metrics.scores import scores_without
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.finetuned import Finetuned as Finetuned
from dnabert2_jax.recipes.finetuned import finished
from dnabert2_jax.recipes.finetuning_job import prepare
from dnabert2_jax.recipes.finetuning_per_base import finetune_per_base
from dnabert2_jax.recipes.finetuning_steps import train_by_steps
from dnabert2_jax.reports import report_finetuning
from dnabert2_jax.reports.run import saved_baseline
from dnabert2_jax.storage.paths import StrPath, as_path
from dnabert2_jax.training.goodput import Ledger


def finetune(run: Finetuning, workdir: StrPath, *, baseline: Baseline | None = None) -> Finetuned:
    """Train on one table, select by a second, score on a third, save and report.

    A run that was stopped or killed resumes from its last checkpoint and ends with the same parameters, bit for bit, on the
    same machine. With labels at every base, contigs take the place of tables, see ``recipes/finetuning_per_base.py``.

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
    if isinstance(run, PerBaseRun):
        return finetune_per_base(run, workdir)
    with Ledger() as ledger:
        job = prepare(run, workdir)
        tables = {"train": job.train, "dev": job.dev, "test": job.test}
        data = tables_report(job.splits, tables)
        for note in notes_on(data):  # before hours of training rather than after them
            remark(f"warning: {note}")
        began = time.monotonic()
        if run.training.method == "probe":
            from dnabert2_jax.recipes.probe import fit_probe  # scikit-learn takes seconds to import

            trained = fit_probe(job)
        else:
            trained = train_by_steps(job, ledger)
    test = job.scores(job.test, trained.outputs)
    trained.best.finish(test)
    seconds = trained.earlier_seconds + time.monotonic() - began

    clean = None
    baseline = baseline or saved_baseline(workdir) or kmer_baseline_if_feasible(job.splits)
    if baseline is not None:
        lines = np.array(job.splits.test.lines)
        clean = scores_without(job.test.labels, trained.outputs, job.labels.names, lines, baseline["leaked_lines"])
    intervals = confidence_intervals(run.data.task, job.test.labels, trained.outputs)
    result = finished(job, trained, test, intervals, seconds, clean)
    report_finetuning(job.directory.path, data, job.splits, tables, trained.outputs, baseline)
    return result
