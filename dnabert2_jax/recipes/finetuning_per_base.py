"""Fine-tuning with labels at every base: a genome and its annotation, split by contig."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.data.annotation import read_annotation
from dnabert2_jax.data.base_labels import BaseLabels
from dnabert2_jax.data.base_report import WindowsReport, windows_report
from dnabert2_jax.data.base_windows import EncodedWindows, WindowSplits, load_windows
from dnabert2_jax.data.by_length import LabeledRows
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.metrics.bases import joined
from dnabert2_jax.metrics.intervals import base_intervals
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.modeling.compute import training_compute
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.base_model import load_base
from dnabert2_jax.recipes.finetuned import Finetuned, finished
from dnabert2_jax.recipes.finetuning_job import FinetuningJob
from dnabert2_jax.recipes.finetuning_steps import train_by_steps
from dnabert2_jax.reports import report_per_base
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.training.goodput import Ledger
from dnabert2_jax.training.objectives import frequency_logits
from dnabert2_jax.training.workdir import Workdir


@dataclass(frozen=True)
class WindowsJob(FinetuningJob):
    """A run on the windows of a genome.

    Attributes:
        run: what to do.
        splits: the windows.
        train, reverse, dev, test: likewise.
    """

    run: PerBaseRun
    splits: WindowSplits
    train: EncodedWindows
    reverse: EncodedWindows | None
    dev: EncodedWindows
    test: EncodedWindows

    @property
    def labels(self) -> BaseLabels:
        """The labels of bases."""
        return self.splits.labels

    @property
    def inputs(self) -> dict[str, Path]:
        """The genome and its annotation."""
        return {"fasta": self.run.data.fasta, "annotation": self.run.data.annotation}

    @property
    def training_data(self) -> dict[str, Any] | None:
        """None: sequences of any length are read in windows."""
        return None

    @property
    def class_bias(self) -> NDArray[np.float32] | None:
        """From the frequencies of labels, most of which are rare; zeros where balanced weights make all classes alike."""
        balanced = self.run.training.class_weights == "balanced"
        return None if balanced else frequency_logits(self.train.labels, self.labels)

    def epoch(self, epoch: int) -> EncodedWindows:
        """The training windows as one epoch reads them: a random half of them from the other strand, if the run asks so."""
        return self.train if self.reverse is None else self.train.on_either_strand(self.reverse, self.run.seed, epoch)

    def scores(self, rows: LabeledRows, outputs: NDArray[np.floating]) -> Scores:
        """Scores of outputs [rows, L, C]; adjacent windows are joined, so that segments are whole."""
        assert isinstance(rows, EncodedWindows)
        along_contigs = joined(rows.labels, rows.breaks), joined(outputs, rows.breaks)
        return self.metrics.compute(*along_contigs, self.labels.names, self.head)


def finetune_per_base(run: PerBaseRun, workdir: Path) -> Finetuned:
    """Train on some contigs, select by others, score on the rest, save and report.

    Args:
        run: what to do.
        workdir: as for :func:`~dnabert2_jax.recipes.finetuning.finetune`.

    Raises:
        UserError: a path, the annotation, a setting or the directory cannot be used; training diverged.
        Stopped: SIGTERM or Ctrl-C asked for it; what was done is saved.
    """
    with Ledger() as ledger:
        job = prepare_windows(run, workdir)
        data = windows_report(job.splits)
        for note in data["notes"]:
            remark(f"warning: {note}")
        began = time.monotonic()
        trained = train_by_steps(job, ledger)
    test = job.scores(job.test, trained.outputs)
    trained.best.finish(test)
    seconds = trained.earlier_seconds + time.monotonic() - began
    intervals = base_intervals(job.test.labels, trained.outputs, several=job.labels.several)
    result = finished(job, trained, test, intervals, seconds)
    report_per_base(job.directory.path, data)
    return result


def prepare_windows(run: PerBaseRun, workdir: Path) -> WindowsJob:
    """Read what a run names, report what was found, and make its directory.

    Raises:
        UserError: a path, the annotation, a setting or the directory cannot be used.
    """
    compute = training_compute(run.model)
    config, tokenizer, base = load_base(run.model)
    data = run.data
    file = local_copy(data.annotation)
    with Reference(local_copy(data.fasta)) as reference:
        splits = load_windows(
            read_annotation(file, reference, data.features, data.bad_records),
            reference,
            tokenizer,
            window=data.window,
            dev_contigs=data.dev_contigs,
            test_contigs=data.test_contigs,
            several=data.overlaps == "several",
            stranded=data.stranded,
            reverse=data.reverse_complement,
        )
    directory = Workdir(workdir, run_to_dict(run))
    for line in _described(windows_report(splits)):
        remark(line)
    return WindowsJob(
        run=run,
        directory=directory,
        config=config,
        tokenizer=tokenizer,
        base=base,
        compute=compute,
        head=splits.labels.head,
        splits=splits,
        train=splits.train,
        reverse=splits.reverse,
        dev=splits.dev,
        test=splits.test,
    )


def _described(data: WindowsReport) -> list[str]:
    """A line for each split, and one on what was changed in reading."""
    lines = [
        f"{name}: {split['windows']:,} windows, {split['bases']:,} bases of {len(split['contigs']):,} contigs; "
        + ", ".join(f"{label} {bases:,}" for label, bases in split["label_counts"].items())
        for name, split in data["splits"].items()
    ]
    return [*lines, *(["; ".join(data["changes"])] if data["changes"] else [])]
