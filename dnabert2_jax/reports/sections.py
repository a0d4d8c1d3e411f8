"""The sections that pages of runs share: curves, tables, corpus, commands, and how the run was made."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.base_report import WindowsReport
from dnabert2_jax.data.checks import TablesReport
from dnabert2_jax.data.splits import SPLITS
from dnabert2_jax.errors import UserError, listed
from dnabert2_jax.reports.page import (
    Block,
    Command,
    Heading,
    Pictures,
    Section,
    Settings,
    SettingsGroups,
    Table,
    Text,
)
from dnabert2_jax.reports.plots.curves import species_curves, species_losses, training_curves
from dnabert2_jax.reports.plots.embeddings import MapMethod
from dnabert2_jax.reports.plots.lengths import token_lengths
from dnabert2_jax.reports.plots.style import LIGHT, PictureFormat, Theme, drawn, render
from dnabert2_jax.storage.paths import explain, make_directory
from dnabert2_jax.training.goodput import Goodput

PICTURES = "pictures"
PREDICTIONS_FILE = "test_predictions.npz"
EMBEDDINGS_FILE = "test_embeddings.npz"


class Drawing(NamedTuple):
    """A picture to draw: its file name without suffix, its caption, and the function that draws it in a theme."""

    name: str
    caption: str
    draw: Callable[[Theme], Figure]


@dataclass(frozen=True)
class RunFiles:
    """What a run left in its directory; None for what it has not reached yet.

    Attributes:
        workdir: the directory.
        run: the effective run.
        lines: of ``metrics.jsonl``.
        data: checks of the tables, or the corpus.
        baseline: scores of the k-mer regression, and the model's without leaked rows.
        scores: of the test table, or held-out ones.
        provenance: how the model was made.
        goodput: where the time went.
        map_method: how an embedding map is made.
        picture_format: format of the picture files beside PNG, if it is another one.
    """

    workdir: Path
    run: dict[str, Any]
    lines: list[dict[str, Any]]
    data: Any | None
    baseline: Any | None
    scores: dict[str, Any] | None
    provenance: dict[str, Any] | None
    goodput: Goodput | None
    map_method: MapMethod
    picture_format: PictureFormat


def curve_section(run: RunFiles, kept_step: int | None) -> Section:
    """Training curves; for pretraining, also those of each species."""
    kept = "" if kept_step is None else f" The dotted line marks step {kept_step:,}, the best on the dev table: it was kept."
    curves = [
        Drawing(
            "training_curves",
            f"Measurements by optimizer step.{kept}",
            lambda theme: training_curves(run.lines, theme, kept_step=kept_step),
        )
    ]
    by_species = species_losses(run.lines)
    if by_species:
        caption = "Held-out loss of each species, labeled at the end of its line, the hardest to predict first."
        curves.append(Drawing("species_curves", caption, lambda theme: species_curves(run.lines, theme)))
    blocks: list[Block] = [draw_pictures(run.workdir, curves, run.picture_format)]
    if by_species:
        header = ("species", "first", "last", "lowest", "at step")
        blocks += [
            Heading("Held-out loss by species (nats per masked token)"),
            Table(header, [_loss_row(name, curve) for name, curve in by_species.items()]),
        ]
    return Section("training", "Training", blocks)


def _loss_row(name: str, curve: list[tuple[int, float]]) -> tuple[str, ...]:
    lowest, step = min((loss, step) for step, loss in curve)
    return name, f"{curve[0][1]:.4f}", f"{curve[-1][1]:.4f}", f"{lowest:.4f}", f"{step:,}"


def goodput_section(goodput: Goodput) -> Section:
    """Where the time of all calls of a run went."""
    rows = [(words, _duration(seconds), f"{seconds / goodput.total:.1%}") for words, seconds in goodput.rows()]
    total = ("in all", _duration(goodput.total), f"{1:.1%}")
    calls = "one call" if goodput.calls == 1 else f"{goodput.calls:,} calls"
    note = f"Of process 0, over {calls} of the command; before the report itself was written."
    return Section("time", "Time", [Table(("", "h:mm:ss", "share"), [*rows, total]), Text(note)])


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def tables_section(run: RunFiles, data: TablesReport) -> Section:
    """What the tables of a fine-tuning run contain."""
    tables = data["tables"]
    of_rows = {
        "rows": "rows",
        "bases": "bases",
        "bases per row, shortest": "shortest",
        "bases per row, median": "median",
        "bases per row, longest": "longest",
        f"rows truncated to {data['max_tokens']:,} tokens": "truncated_rows",
        "tokens lost to truncation": "tokens_lost",
        "lower-case letters (upper-cased)": "lower_case",
        "IUPAC codes (read as [UNK])": "ambiguous",
        "rows that repeat an earlier one": "duplicate_rows",
        "sequences with several labels": "contradictory_sequences",
    }
    rows = [(title, *(_count(table[key]) for table in tables.values())) for title, key in of_rows.items()]  # type: ignore[literal-required]
    labels = [
        (label, *(f"{t['label_counts'][label]:,} ({t['label_counts'][label] / t['rows']:.1%})" for t in tables.values()))
        for label in tables["train"]["label_counts"]
    ] or [
        (name, *(f"{t['measurements'][name]:.5g}" for t in tables.values()))
        for name in tables["train"].get("measurements", {})
    ]
    shared = [
        (
            f"{pair['later']} rows also in {pair['earlier']}",
            f"{pair['rows']:,}",
            f"{pair['contradictory_rows']:,}",
            ", ".join(map(str, pair["lines"])) + (", …" if pair["rows"] > len(pair["lines"]) else ""),
        )
        for pair in data["shared"]
    ]
    lengths = {name: table["token_lengths"] for name, table in tables.items()}
    caption = "Tokens per row before truncation, special tokens included, as fractions of each table."
    histogram = Drawing("token_lengths", caption, partial(token_lengths, lengths, data["max_tokens"]))
    return Section(
        "data",
        "Data",
        [
            Table(("", *tables), rows),
            Heading("Labels"),
            Table(("label", *tables), labels),
            Heading("Rows that tables share"),
            Table(("", "rows", "other label", "lines"), shared),
            Heading("Length"),
            draw_pictures(run.workdir, [histogram], run.picture_format),
            Settings([(name, table["path"]) for name, table in tables.items()]),
        ],
    )


def windows_section(run: RunFiles, data: WindowsReport) -> Section:
    """What the windows of a run with labels at every base contain."""
    splits = data["splits"]
    counts = {"windows": "windows", "windows left out, mostly N": "left_out", "bases": "bases"}
    rows = [
        ("contigs", *(f"{len(split['contigs']):,}" for split in splits.values())),
        *((title, *(f"{split[key]:,}" for split in splits.values())) for title, key in counts.items()),  # type: ignore[literal-required]
    ]
    labels = [
        (label, *(f"{s['label_counts'][label]:,} ({s['label_counts'][label] / s['bases']:.2%})" for s in splits.values()))
        for label in splits["train"]["label_counts"]
    ]
    contigs = [(f"{name} contigs", listed(split["contigs"], 20)) for name, split in splits.items()]
    lengths = {name: split["token_lengths"] for name, split in splits.items()}
    longest = max(pairs[-1][0] for pairs in lengths.values())
    caption = "Tokens per window, special tokens included, as fractions of each split."
    histogram = Drawing("token_lengths", caption, partial(token_lengths, lengths, longest))
    return Section(
        "data",
        "Data",
        [
            Table(("", *splits), rows),
            Heading("Bases by label"),
            Table(("label", *splits), labels),
            *([Text("; ".join(data["changes"]))] if data["changes"] else []),
            Heading("Length"),
            draw_pictures(run.workdir, [histogram], run.picture_format),
            Settings([("files", data["source"]), *contigs]),
        ],
    )


def corpus_section(data: dict[str, Any]) -> Section:
    """What the corpus of a pretraining run contains."""
    header = ("species", "contigs", "bases", "train", "held out", "neither", "lower case", "IUPAC codes", "skipped contigs")
    rows = [
        (
            s["name"],
            *(_count(s[key]) for key in ("contigs", "bases", "train_bases", "validation_bases", "split_out_bases")),
            _count(s["lower_case"]),
            _count(s["ambiguous"]),
            _count(s["short_contigs"] + s["empty_records"]),
        )
        for s in data["species"]
    ]
    built = [(key, str(value)) for key, value in data["settings"].items()]
    made = Settings([("directory", data["path"]), ("hash", data["hash"]), *built])
    return Section("data", "Corpus", [Table(header, rows), Heading("How it was built"), made])


def use_finetuned(run: RunFiles) -> Section:
    """Commands for a classifier."""
    model, limit = shlex.quote(str(run.workdir / "model")), run.run["data"]["max_tokens"]
    head = json.loads((run.workdir / "model" / "config.json").read_bytes()).get("head", {})
    # A model written by a version that did not save the limit needs it as an option.
    option = "" if HeadConfig(**head).max_tokens == limit else f" --max-tokens {limit}"
    commands = [
        Command(
            "Label new sequences (CSV, TSV or FASTA):",
            f"dnabert2 predict --model {model}{option} --data new.fa --out predictions.csv",
        ),
        Command(
            "Score another labeled table:", f"dnabert2 evaluate --model {model}{option} --data table.csv --out scores.json"
        ),
        Command("Embed sequences:", f"dnabert2 embed --model {model} --data new.fa --out embeddings.npz"),
    ]
    if run.run["training"]["method"] == "lora":
        adapter = shlex.quote(str(run.workdir / "adapter"))
        commands.append(Command("Show the adapter and the base it belongs to:", f"dnabert2 adapters list {adapter}"))
    return Section("use", "Use the result", commands)


def use_base_classifier(run: RunFiles) -> Section:
    """Commands for a model that labels every base."""
    model = shlex.quote(str(run.workdir / "model"))
    strands = " --strand both" if run.run["data"]["stranded"] else ""
    track = f"dnabert2 track --model {model} --fasta genome.fa{strands}"
    commands = [
        Command("Probabilities of each label along a genome, for genome browsers:", f"{track} --out tracks"),
        Command("Predicted segments, as BED:", f"{track} --format bed --threshold 0.5 --out segments"),
    ]
    return Section("use", "Use the result", commands)


def use_pretrained(run: RunFiles) -> Section:
    """Commands for a pretrained encoder."""
    model = shlex.quote(str(run.workdir / "model"))
    tables = " ".join(f"--set data.{split}={split}.csv" for split in SPLITS)
    finetune = f"dnabert2 finetune --workdir runs/task --set model.path={model} {tables}"
    commands = [
        Command("Fine-tune a classifier:", finetune),
        Command("Embed sequences:", f"dnabert2 embed --model {model} --data new.fa --out embeddings.npz"),
        Command("Check the model on this machine:", f"dnabert2 doctor --model {model}"),
    ]
    return Section("use", "Use the result", commands)


def record_sections(run: RunFiles) -> list[Section]:
    """The effective configuration, and how the model was made."""
    groups = [("run", Settings([(key, str(value)) for key, value in run.run.items() if not isinstance(value, dict)]))]
    for key, section in run.run.items():
        if isinstance(section, dict):
            groups.append((key, Settings([(name, _value(value)) for name, value in section.items()])))
    sections = [Section("config", "Configuration", [SettingsGroups(groups)])]
    if run.provenance is not None:
        made = [("command", " ".join(run.provenance["command"])), ("date (UTC)", run.provenance["date"])]
        made += [(f"hash of the {name}", value) for name, value in run.provenance["parents"].items()]
        made += list(run.provenance["versions"].items())
        sections.append(Section("made", "How it was made", [Settings(made)]))
    return sections


def draw_pictures(workdir: Path, drawings: Sequence[Drawing], picture_format: PictureFormat = "png") -> Pictures:
    """Draw each picture for both color schemes; the light one is also saved as a file.

    Args:
        workdir: gets ``pictures/NAME.png``.
        drawings: what to draw.
        picture_format: SVG or PDF is saved beside PNG.

    Raises:
        UserError: the files cannot be written.
    """
    folder = workdir / PICTURES
    shown = []
    try:
        make_directory(folder)
        for name, caption, draw in drawings:
            picture = drawn(caption, draw)
            (folder / f"{name}.png").write_bytes(picture.light)
            if picture_format != "png":
                (folder / f"{name}.{picture_format}").write_bytes(render(draw(LIGHT), picture_format))
            shown.append(picture)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({explain(error) or error.strerror}); make room, or make {workdir} writable"
        ) from error
    return Pictures(shown)


def _count(value: int | Mapping[str, int]) -> str:
    """A number, or numbers by letter."""
    if isinstance(value, Mapping):
        return ", ".join(f"{letter} {count:,}" for letter, count in value.items()) or "0"
    return f"{value:,}"


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "—" if value is None else str(value)
