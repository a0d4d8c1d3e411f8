"""A run's page, written from the files in its directory, so that it can be rewritten at any time."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.baselines.comparison import Baseline
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.data.base_report import WindowsReport
from dnabert2_jax.data.checks import TablesReport, notes_on
from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.splits import Splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.corpus import Corpus
from dnabert2_jax.metrics.scores import collapse_advice, scores_without
from dnabert2_jax.reports.page import Page, write_page
from dnabert2_jax.reports.plots.embeddings import MapMethod
from dnabert2_jax.reports.plots.style import PictureFormat
from dnabert2_jax.reports.scores import baseline_figure, baseline_notes, baseline_section, score_figures, score_section
from dnabert2_jax.reports.sections import (
    PREDICTIONS_FILE,
    RunFiles,
    corpus_section,
    curve_section,
    goodput_section,
    record_sections,
    tables_section,
    use_base_classifier,
    use_finetuned,
    use_pretrained,
    windows_section,
)
from dnabert2_jax.storage.atomic import atomic_file, write_json
from dnabert2_jax.storage.paths import absolute
from dnabert2_jax.training.goodput import account
from dnabert2_jax.training.workdir import MetricsLog, read_run

REPORT_FILE = "report.html"
DATA_FILE = "data_report.json"
BASELINE_FILE = "floor.json"


def report_finetuning(
    workdir: Path,
    data: TablesReport,
    splits: Splits,
    encoded: Mapping[str, EncodedTable],
    outputs: NDArray[np.floating],
    baseline: Baseline | None,
) -> Path:
    """Save what the report of a fine-tuning run needs, and write it.

    Args:
        workdir: the run's directory; gets ``data_report.json`` and ``test_predictions.npz`` (``labels`` as encoded,
            ``probabilities`` [rows, C] or for a regression ``values`` [rows], ``lines`` of the file [rows]), for classes
            ``floor.json``, and the report.
        data: checks of the run's tables.
        splits: the tables.
        encoded: the same as token ids: ``train``, ``dev`` and ``test``.
        outputs: for the rows of the test table, [rows, C].
        baseline: what the scores are compared with; None for tasks without classes, or if it was not feasible.

    Returns:
        The page.
    """
    write_json(workdir / DATA_FILE, data)
    lines = np.array(splits.test.lines, np.int64)
    predicted = {"values": outputs[:, 0]} if splits.labels.head.task == "regression" else {"probabilities": outputs}
    save_arrays(workdir / PREDICTIONS_FILE, labels=encoded["test"].labels, lines=lines, **predicted)
    if baseline is not None:
        clean = scores_without(encoded["test"].labels, outputs, splits.labels.names, lines, baseline["leaked_lines"])
        kept = {key: baseline[key] for key in Baseline.__annotations__}  # type: ignore[literal-required]
        write_json(workdir / BASELINE_FILE, {**kept, "clean": clean})
    return write_report(workdir)


def report_per_base(workdir: Path, data: WindowsReport) -> Path:
    """Save what the report of a run with labels at every base needs, and write it.

    Args:
        workdir: the run's directory; gets ``data_report.json`` and the report.
        data: counts of its windows.

    Returns:
        The page.
    """
    write_json(workdir / DATA_FILE, data)
    return write_report(workdir)


def saved_baseline(workdir: Path) -> Baseline | None:
    """The baseline that an earlier call saved in a run's directory, or None."""
    baseline: Baseline | None = _json(workdir / BASELINE_FILE)
    return baseline


def report_pretraining(workdir: Path, corpus: Corpus, entropy: float) -> Path:
    """Save what the report of a pretraining run needs, and write it.

    Args:
        workdir: the run's directory; gets ``data_report.json`` and the report.
        corpus: what it was trained on.
        entropy: unigram entropy of its tokens, in nats.

    Returns:
        The page.
    """
    content = {
        "unigram_entropy": entropy,
        "path": str(corpus.path),
        "hash": corpus.hash,
        "settings": asdict(corpus.manifest.settings),
        "species": [asdict(species) for species in corpus.species],
    }
    write_json(workdir / DATA_FILE, content)
    return write_report(workdir)


def pretraining_notes(scores: Mapping[str, Any], entropy: float) -> list[str]:
    """A warning if the held-out loss is no lower than the unigram entropy of the tokens."""
    if scores["loss"] < entropy:
        return []
    return [
        f"The held-out loss, {scores['loss']:.4f} nats, is not below the unigram entropy of the tokens, {entropy:.4f}: so "
        "far the model has learned only how often each token occurs; train longer, or with a higher learning rate."
    ]


def save_arrays(file: Path, **arrays: NDArray[Any]) -> None:
    """Write an npz file, atomically."""
    with atomic_file(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own options


def write_report(workdir: Path, map_method: MapMethod = "auto", picture_format: PictureFormat = "png") -> Path:
    """Write ``report.html`` and ``pictures/*.png`` from the files of a run, finished or not.

    Args:
        workdir: the run's directory.
        map_method: how the embedding map is made, if the run has embeddings.
        picture_format: SVG or PDF saves the pictures in that format, too.

    Returns:
        The page.

    Raises:
        UserError: the directory holds no run, or is not writable.
    """
    files = _read_files(workdir, map_method, picture_format)
    page = _finetuning_page(files) if files.run["command"] == "finetune" else _pretraining_page(files)
    return write_page(workdir / REPORT_FILE, page)


def finetuning_notes(workdir: Path) -> list[str]:
    """What a reader of a fine-tuning run's scores must know, as its page says it.

    Raises:
        UserError: the directory holds no run, or a damaged file.
    """
    return _finetuning_notes(_read_files(workdir))


def _read_files(workdir: Path, map_method: MapMethod = "auto", picture_format: PictureFormat = "png") -> RunFiles:
    run = read_run(workdir)
    return RunFiles(
        workdir=workdir,
        run=run_to_dict(run),
        lines=MetricsLog.read(workdir),
        data=_json(workdir / DATA_FILE),
        baseline=_json(workdir / BASELINE_FILE),
        scores=_json(workdir / ("scores.json" if run.command == "finetune" else "validation.json")),
        provenance=_json(workdir / "model" / "provenance.json"),
        goodput=account(workdir),
        map_method=map_method,
        picture_format=picture_format,
    )


def _finetuning_notes(run: RunFiles) -> list[str]:
    """An unfinished or collapsed run, a baseline that does as well, and flaws of the tables."""
    notes = []
    if run.scores is None:
        notes.append("This run has not finished: there are no test scores yet.")
    elif run.scores["test"]["collapsed"]:
        advice = collapse_advice(run.run["training"]["method"])
        notes.append(f"Every test row got the same prediction: the run collapsed; {advice}.")
    if run.scores is not None and run.baseline is not None:
        notes.extend(baseline_notes(run.scores["test"], run.baseline))
    if run.data is None:
        return notes
    return notes + (run.data["notes"] if run.run["data"]["task"] == "per_base" else notes_on(run.data))


def _finetuning_page(run: RunFiles) -> Page:
    task: TaskKind = run.run["data"]["task"]
    per_base = task == "per_base"
    methods = {"full": "full fine-tuning", "lora": "LoRA", "probe": "probe" if per_base else "linear probe"}
    subtitle = f"{methods[run.run['training']['method']]}, {_made(run.provenance)}"
    sections, figures = [], []
    if run.scores is not None:
        test = run.scores["test"]
        figures = score_figures(task, run.scores)
        sections.append(score_section(task, run, test))
        if run.baseline is not None:
            figures.insert(1, baseline_figure(run.baseline))
            sections.append(baseline_section(test, run.baseline))
    if run.lines:
        sections.append(curve_section(run, run.scores["best_step"] if run.scores else None))
    if run.goodput is not None:
        sections.append(goodput_section(run.goodput))
    if run.data is not None:
        sections.append(windows_section(run, run.data) if per_base else tables_section(run, run.data))
    if run.provenance is not None:
        sections.append(use_base_classifier(run) if per_base else use_finetuned(run))
    title = f"Fine-tuning: {_name(run.workdir)}"
    return Page(title, subtitle, [*sections, *record_sections(run)], figures, _finetuning_notes(run))


def _pretraining_page(run: RunFiles) -> Page:
    sections, figures, notes = [], [], []
    if run.scores is None:
        notes.append("This run has not finished: its model has not been written yet.")
    else:
        figures = [
            (f"{run.scores['loss']:.4f}", "held-out loss, nats per masked token"),
            (f"{run.scores['perplexity']:,.1f}", "held-out perplexity"),
            (f"{run.scores['masked_accuracy']:.2%}", "held-out masked accuracy"),
        ]
        entropy = (run.data or {}).get("unigram_entropy")  # runs of earlier versions have none
        if entropy is not None:
            figures.insert(1, (f"{entropy:.4f}", "unigram entropy of the tokens, nats"))
            notes += pretraining_notes(run.scores, entropy)
    if run.lines:
        speeds = [line["tokens_per_second"] for line in run.lines if "tokens_per_second" in line]
        if speeds:
            figures.append((f"{float(np.median(speeds)):,.0f}", "real tokens per second (median)"))
        figures.append((f"{run.lines[-1]['step']:,}", f"steps of {run.run['training']['steps']:,}"))
        sections.append(curve_section(run, None))
    if run.goodput is not None:
        figures.append((f"{run.goodput.share:.1%}", "goodput: time in steps that were kept"))
        sections.append(goodput_section(run.goodput))
    if run.data is not None:
        sections.append(corpus_section(run.data))
    if run.provenance is not None:
        sections.append(use_pretrained(run))
    title = f"Pretraining: {_name(run.workdir)}"
    return Page(title, _made(run.provenance), [*sections, *record_sections(run)], figures, notes)


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
    return "/".join(absolute(workdir).parts[-2:]).lstrip("/")
