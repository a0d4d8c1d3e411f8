"""A run's page, written from what lies in its directory, so that it can be written again at any time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.baselines.floor import Floor, floor_under, scores_without
from dnabert2_jax.baselines.kmer import KmerBaseline
from dnabert2_jax.config.loading import parse_run, run_to_dict
from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.splits import Splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.metrics.scores import collapse_advice
from dnabert2_jax.progress import remark
from dnabert2_jax.reports.data import corpus_report, notes_on, tables_report
from dnabert2_jax.reports.page import page, write_page
from dnabert2_jax.reports.plots import MapMethod
from dnabert2_jax.reports.scores import (
    floor_figure,
    floor_notes,
    floor_section,
    score_figures,
    score_section,
)
from dnabert2_jax.reports.sections import (
    PREDICTIONS_FILE,
    Material,
    corpus_section,
    curve_section,
    finetuning_commands,
    pretraining_commands,
    record_sections,
    tables_section,
    use_section,
)
from dnabert2_jax.storage.atomic import atomic_file, write_json
from dnabert2_jax.training.workdir import RUN_FILE, MetricsLog

REPORT_FILE = "report.html"
DATA_FILE = "data_report.json"
FLOOR_FILE = "floor.json"

MOST_FLOOR_COUNTS = 3 * 10**8
"""Counts of k-mers, over the rows of all tables, up to which a report fits the regression: it has them in memory."""


def report_finetuning(
    workdir: Path,
    splits: Splits,
    encoded: Mapping[str, EncodedTable],
    outputs: NDArray[np.floating],
    floor: Floor | None = None,
) -> Path:
    """Keep what the report of a fine-tuning run needs, and write it.

    Args:
        workdir: the run's directory; gets ``data_report.json`` and ``test_predictions.npz`` (``labels`` as encoded,
            ``probabilities`` [rows, C] or of a regression ``values`` [rows], ``lines`` of the file [rows]), of classes
            ``floor.json``, and the report.
        splits: the run's tables.
        encoded: the same as token ids: ``train``, ``dev`` and ``test``.
        outputs: of the test table's rows, [rows, C].
        floor: of the same tables, where it is known already.

    Returns:
        The page.
    """
    write_json(workdir / DATA_FILE, tables_report(splits, encoded))
    lines = np.array(splits.test.lines, np.int64)
    said = {"values": outputs[:, 0]} if splits.labels.head.task == "regression" else {"probabilities": outputs}
    save_arrays(workdir / PREDICTIONS_FILE, labels=encoded["test"].labels, lines=lines, **said)
    if floor is None and splits.labels.head.task == "single_label":
        floor = _json(workdir / FLOOR_FILE) or _fit_floor(splits)
    if floor is not None:
        leaked, names = floor["leaked_lines"], splits.labels.names
        clean = scores_without(encoded["test"].labels, outputs, names, lines, leaked)
        floor_part = {key: floor[key] for key in Floor.__annotations__}  # type: ignore[literal-required]
        write_json(workdir / FLOOR_FILE, {**floor_part, "clean": clean})
    return write_report(workdir)


def _fit_floor(splits: Splits) -> Floor | None:
    """The floor under a run's scores; None, which is said, where it would take too much memory."""
    tables = (splits.train, splits.dev, splits.test)
    rows = sum(len(table) * (1 if table.pairs is None else 2) for table in tables)
    if rows * KmerBaseline.columns() > MOST_FLOOR_COUNTS:
        remark(f"no k-mer regression for the report: {rows:,} sequences are too many for its counts to fit in memory")
        return None
    remark("k-mer regression on the same rows, for the report")
    return floor_under(splits.train, splits)


def report_pretraining(workdir: Path, corpus: Corpus) -> Path:
    """Keep what the report of a pretraining run needs (``data_report.json``: the corpus), and write it; returns the page."""
    write_json(workdir / DATA_FILE, corpus_report(corpus))
    return write_report(workdir)


def save_arrays(file: Path, **arrays: NDArray[Any]) -> None:
    """Write an npz file, whole or not at all."""
    with atomic_file(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own options


def read_run(workdir: Path) -> PretrainRun | FinetuneRun:
    """The run that a directory was made by.

    Raises:
        UserError: the directory holds no run, or one of another version.
    """
    file = workdir / RUN_FILE
    content = _json(file)
    if not isinstance(content, dict):
        raise UserError(f"{workdir} holds no run (there is no {RUN_FILE}); name the --workdir of a pretrain or finetune run")
    if content.get("command") == "finetune":
        return parse_run(FinetuneRun, content, str(file))
    return parse_run(PretrainRun, content, str(file))


def write_report(workdir: Path, map_method: MapMethod = "auto") -> Path:
    """Write ``report.html`` and ``pictures/*.png`` from the files of a run, finished or not.

    Args:
        workdir: the run's directory.
        map_method: how the embedding map is made, where the run has embeddings.

    Returns:
        The page.

    Raises:
        UserError: the directory holds no run, or cannot be written to.
    """
    run = read_run(workdir)
    finetuning = isinstance(run, FinetuneRun)
    material = Material(
        workdir=workdir,
        run=run_to_dict(run),
        lines=MetricsLog.read(workdir),
        data=_json(workdir / DATA_FILE),
        floor=_json(workdir / FLOOR_FILE),
        scores=_json(workdir / ("scores.json" if finetuning else "validation.json")),
        provenance=_json(workdir / "model" / "provenance.json"),
        map_method=map_method,
    )
    document = _finetuning_page(material) if finetuning else _pretraining_page(material)
    file = workdir / REPORT_FILE
    return write_page(file, document)


def _finetuning_page(run: Material) -> str:
    methods = {"full": "full fine-tuning", "lora": "LoRA", "probe": "linear probe"}
    subtitle = f"{methods[run.run['training']['method']]}, {_made(run.provenance)}"
    task: TaskKind = run.run["data"]["task"]
    sections, figures, notes = [], [], []
    if run.scores is None:
        notes.append("This run has not finished: there are no test scores yet.")
    else:
        test = run.scores["test"]
        figures = score_figures(task, run.scores)
        if test["collapsed"]:
            advice = collapse_advice(run.run["training"]["method"])
            notes.append(f"Every test row was predicted alike: the run collapsed; {advice}.")
        if run.floor is not None:
            figures.insert(1, floor_figure(run.floor))
            notes.extend(floor_notes(test, run.floor))
        sections.append(score_section(task, run, test))
        if run.floor is not None:
            sections.append(floor_section(test, run.floor))
    if run.data is not None:
        notes.extend(notes_on(run.data))
    if run.lines:
        sections.append(curve_section(run, run.scores["best_step"] if run.scores else None))
    if run.data is not None:
        sections.append(tables_section(run, run.data))
    if run.provenance is not None:
        sections.append(use_section(finetuning_commands(run)))
    sections += record_sections(run)
    return page(f"Fine-tuning: {_name(run.workdir)}", subtitle, sections, figures, notes)


def _pretraining_page(run: Material) -> str:
    sections, figures, notes = [], [], []
    if run.scores is None:
        notes.append("This run has not finished: its model is not written yet.")
    else:
        figures = [
            (f"{run.scores['loss']:.4f}", "held-out loss, nats a masked token"),
            (f"{run.scores['perplexity']:,.1f}", "held-out perplexity"),
            (f"{run.scores['masked_accuracy']:.2%}", "held-out masked accuracy"),
        ]
    if run.lines:
        speeds = [line["tokens_per_second"] for line in run.lines if "tokens_per_second" in line]
        if speeds:
            figures.append((f"{float(np.median(speeds)):,.0f}", "real tokens a second (median)"))
        figures.append((f"{run.lines[-1]['step']:,}", f"steps of {run.run['training']['steps']:,}"))
        sections.append(curve_section(run, None))
    if run.data is not None:
        sections.append(corpus_section(run.data))
    if run.provenance is not None:
        sections.append(use_section(pretraining_commands(run)))
    sections += record_sections(run)
    return page(f"Pretraining: {_name(run.workdir)}", _made(run.provenance), sections, figures, notes)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({error}); restore it from a copy, or start the run in another --workdir"
        ) from error


def _made(provenance: dict[str, Any] | None) -> str:
    if provenance is None:
        return "in progress"
    versions = provenance["versions"]
    return f"{provenance['date'][:10]}, dnabert2_jax {versions['dnabert2_jax']}, jax {versions['jax']}"


def _name(workdir: Path) -> str:
    return "/".join(workdir.resolve().parts[-2:]).lstrip("/")
