"""The sections of a run's page, each from what the run left in its directory."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.reports import plots
from dnabert2_jax.reports.data import TablesReport
from dnabert2_jax.reports.page import Section, command, grid, picture, settings
from dnabert2_jax.reports.plots import MapMethod, Theme
from dnabert2_jax.reports.species import species_curves, species_losses

PICTURES = "pictures"
PREDICTIONS_FILE = "test_predictions.npz"
EMBEDDINGS_FILE = "test_embeddings.npz"

Drawing = tuple[str, str, Callable[[Theme], Figure]]
"""A picture's file name, its caption, and what draws it on a ground."""


@dataclass(frozen=True)
class Material:
    """What a run left in its directory; None where it has not come that far."""

    workdir: Path
    run: dict[str, Any]
    lines: list[dict[str, Any]]
    data: Any | None
    floor: Any | None
    scores: dict[str, Any] | None
    provenance: dict[str, Any] | None
    map_method: MapMethod


def curve_section(run: Material, kept_step: int | None) -> Section:
    """Training curves; of pretraining, those of each species, too."""
    kept = "" if kept_step is None else f" The dotted line is step {kept_step:,}, the best on the dev table, which was kept."
    caption = f"Measurements by optimizer step.{kept}"
    curves: list[Drawing] = [
        ("training_curves", caption, lambda theme: plots.training_curves(run.lines, theme, kept_step=kept_step))
    ]
    by_species = species_losses(run.lines)
    if by_species:
        caption = "Held-out loss of each species, named at the end of its line, the hardest to predict first."
        curves.append(("species_curves", caption, lambda theme: species_curves(run.lines, theme)))
    body = draw_pictures(run.workdir, curves)
    if by_species:
        body += "<h3>Held-out loss by species (nats a masked token)</h3>" + grid(
            ("species", "first", "last", "lowest", "at step"),
            [_loss_row(name, curve) for name, curve in by_species.items()],
        )
    return Section("training", "Training", body)


def _loss_row(name: str, curve: list[tuple[int, float]]) -> tuple[str, ...]:
    lowest, step = min((loss, step) for step, loss in curve)
    return name, f"{curve[0][1]:.4f}", f"{curve[-1][1]:.4f}", f"{lowest:.4f}", f"{step:,}"


def tables_section(run: Material, data: TablesReport) -> Section:
    """What the tables of a fine-tuning run hold."""
    tables = data["tables"]

    def row(title: str, values: list[str]) -> tuple[str, ...]:
        return (title, *values)

    def counts(key: str) -> list[str]:
        return [f"{table[key]:,}" for table in tables.values()]  # type: ignore[literal-required]

    rows = [row(title, counts(key)) for title, key in (("rows", "rows"), ("bases", "bases"))]
    rows += [row(f"bases of a row, {key}", counts(key)) for key in ("shortest", "median", "longest")]
    rows += [
        row(f"rows cut to {data['max_tokens']:,} tokens", counts("truncated_rows")),
        row("tokens lost by cutting", counts("tokens_lost")),
        row("lower-case letters (upper-cased)", counts("lower_case")),
        row("IUPAC codes (read as [UNK])", [_letters(table["ambiguous"]) for table in tables.values()]),
        row("rows that repeat an earlier one", counts("duplicate_rows")),
        row("sequences with several labels", counts("contradictory_sequences")),
    ]
    labels = [
        (label, *(f"{t['label_counts'][label]:,} ({t['label_counts'][label] / t['rows']:.1%})" for t in tables.values()))
        for label in tables["train"]["label_counts"]
    ] or [
        (name, *(f"{t['measurements'][name]:.5g}" for t in tables.values()))
        for name in tables["train"].get("measurements", {})
    ]
    shared = [
        (
            f"{pair['later']} rows in {pair['earlier']} too",
            f"{pair['rows']:,}",
            f"{pair['contradictory_rows']:,}",
            ", ".join(map(str, pair["lines"])) + (", …" if pair["rows"] > len(pair["lines"]) else ""),
        )
        for pair in data["shared"]
    ]
    lengths = {name: table["token_lengths"] for name, table in tables.items()}
    histogram: list[Drawing] = [
        (
            "token_lengths",
            "Tokens of a row before cutting, special tokens included, as shares of each table.",
            lambda theme: plots.token_lengths(lengths, data["max_tokens"], theme),
        )
    ]
    body = grid(("", *tables), rows) + "<h3>Labels</h3>" + grid(("label", *tables), labels)
    body += "<h3>Rows that tables share</h3>" + grid(("", "rows", "other label", "lines"), shared)
    body += "<h3>Length</h3>" + draw_pictures(run.workdir, histogram)
    body += settings((name, table["path"]) for name, table in tables.items())
    return Section("data", "Data", body)


def corpus_section(data: dict[str, Any]) -> Section:
    """What the corpus of a pretraining run holds."""
    header = ("species", "contigs", "bases", "train", "held out", "neither", "lower case", "IUPAC codes", "skipped contigs")
    rows = [
        (
            s["name"],
            *(f"{s[key]:,}" for key in ("contigs", "bases", "train_bases", "validation_bases", "split_out_bases")),
            f"{s['lower_case']:,}",
            _letters(s["ambiguous"]),
            f"{s['short_contigs'] + s['empty_records']:,}",
        )
        for s in data["species"]
    ]
    body = grid(header, rows) + "<h3>How it was built</h3>"
    built = [(key, str(value)) for key, value in data["settings"].items()]
    return Section("data", "Corpus", body + settings([("directory", data["path"]), ("hash", data["hash"]), *built]))


def finetuning_commands(run: Material) -> list[tuple[str, str]]:
    """(what for, command) for a classifier."""
    model, limit = shlex.quote(str(run.workdir / "model")), run.run["data"]["max_tokens"]
    head = json.loads((run.workdir / "model" / "config.json").read_bytes()).get("head", {})
    # A model of a version that did not keep the limit has to be told.
    told = "" if HeadConfig(**head).max_tokens == limit else f" --max-tokens {limit}"
    commands = [
        (
            "Label new sequences (CSV, TSV or FASTA):",
            f"dnabert2 predict --model {model}{told} --data new.fa --out predictions.csv",
        ),
        ("Score another labelled table:", f"dnabert2 evaluate --model {model}{told} --data table.csv --out scores.json"),
        ("Embed sequences:", f"dnabert2 embed --model {model} --data new.fa --out embeddings.npz"),
    ]
    if run.run["training"]["method"] == "lora":
        adapter = shlex.quote(str(run.workdir / "adapter"))
        commands.append(("What the adapter is, and the base it belongs to:", f"dnabert2 adapters list {adapter}"))
    return commands


def pretraining_commands(run: Material) -> list[tuple[str, str]]:
    """(what for, command) for a pretrained encoder."""
    model = shlex.quote(str(run.workdir / "model"))
    tables = " ".join(f"--set data.{split}={split}.csv" for split in ("train", "dev", "test"))
    return [
        ("Fine-tune a classifier:", f"dnabert2 finetune --workdir runs/task --set model.path={model} {tables}"),
        ("Embed sequences:", f"dnabert2 embed --model {model} --data new.fa --out embeddings.npz"),
        ("Check the model on this machine:", f"dnabert2 doctor --model {model}"),
    ]


def use_section(commands: list[tuple[str, str]]) -> Section:
    """The commands that use the result."""
    return Section("use", "Use the result", "".join(command(explanation, line) for explanation, line in commands))


def record_sections(run: Material) -> list[Section]:
    """The effective configuration, and how the model was made."""
    general = [(key, str(value)) for key, value in run.run.items() if not isinstance(value, dict)]
    parts = [f"<div><h3>run</h3>{settings(general)}</div>"]
    for key, section in run.run.items():
        if isinstance(section, dict):
            parts.append(f"<div><h3>{key}</h3>{settings((name, _value(value)) for name, value in section.items())}</div>")
    sections = [Section("config", "Configuration", f'<div class="columns">{"".join(parts)}</div>')]
    if run.provenance is not None:
        made = [("command", " ".join(run.provenance["command"])), ("date (UTC)", run.provenance["date"])]
        made += [(f"hash of the {name}", value) for name, value in run.provenance["parents"].items()]
        made += list(run.provenance["versions"].items())
        sections.append(Section("made", "How it was made", settings(made)))
    return sections


def draw_pictures(workdir: Path, drawings: list[Drawing]) -> str:
    """Draw each picture for both colour schemes; the light one also becomes a PNG file of its own."""
    folder = workdir / PICTURES
    shown = []
    try:
        folder.mkdir(exist_ok=True)
        for name, caption, draw in drawings:
            light, dark = plots.png(draw(plots.LIGHT)), plots.png(draw(plots.DARK))
            (folder / f"{name}.png").write_bytes(light)
            shown.append(picture(light, dark, caption))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); make room, or make {workdir} writable") from error
    return f'<div class="pictures">{"".join(shown)}</div>'


def _letters(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{letter} {count:,}" for letter, count in counts.items()) or "0"


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "—" if value is None else str(value)
