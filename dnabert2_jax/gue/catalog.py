"""The data sets of GUE (28) and GUE+ (8): their sizes, published fine-tuning settings and published scores.

``tasks.csv`` and ``published_scores.csv`` hold the facts. Scores are from table 6 of the paper, MCC x 100 and, for
virus/covid, macro F1 x 100; settings are from the original's ``finetune/scripts/run_dnabert2.sh`` (4 devices x 8 rows).
GUE+ has no public settings; empty cells are facts that are not public or not certain.
"""

import csv
import re
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

Suite = Literal["GUE", "GUE+", "other"]
Metric = Literal["mcc", "macro_f1"]
Mode = Literal["parity", "recommended", "small"]
"""How data sets are run: as the original; by our settings; or by those for encoders of a few million parameters. See
``presets.py``."""

METRIC_NAMES: dict[str, str] = {"mcc": "MCC", "macro_f1": "macro F1"}
REFERENCE = "DNABERT-2"
"""The published model that everything is compared with."""

SPLITS = ("train", "dev", "test")

_OTHER_GROUPS = {"tf": ("tf", "human_tf")}


@dataclass(frozen=True)
class FinetuneSettings:
    """How the original fine-tunes on a data set; the defaults serve data sets without published settings.

    Attributes:
        max_tokens: longer rows are truncated; None if no limit is published.
        epochs: passes over the training table.
        max_steps: optimizer steps, whatever the epochs; None: as many as the epochs need.
        batch_size: rows per step, over all devices.
        learning_rate: peak learning rate.
        warmup_steps: steps of linear warm-up.
        weight_decay: of AdamW.
        evaluate_every: steps between evaluations on the dev table.
    """

    max_tokens: int | None = None
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 3e-5
    warmup_steps: int = 50
    weight_decay: float = 0.01
    evaluate_every: int = 200


@dataclass(frozen=True)
class Task:
    """A data set.

    Attributes:
        name: group and name, as in ``prom/prom_300_tata``.
        suite: where it belongs; ``other`` is a task that is not part of the benchmark.
        what: what is predicted, in a few words.
        metric: the published one.
        rows: published row counts of the tables, if known.
        settings: the original's, or the defaults.
        published: scores x 100 by model.
    """

    name: str
    suite: Suite = "other"
    what: str = ""
    metric: Metric = "mcc"
    rows: dict[str, int] = field(default_factory=dict)
    settings: FinetuneSettings = FinetuneSettings()
    published: dict[str, float] = field(default_factory=dict)

    @property
    def has_published_settings(self) -> bool:
        """Whether ``settings`` are the original's."""
        return self.suite == "GUE"


@cache
def catalog() -> dict[str, Task]:
    """Every data set of GUE and GUE+ by name."""
    scores = {
        row.pop("task"): {model: float(score) for model, score in row.items()} for row in read_facts("published_scores.csv")
    }
    return {row["task"]: _task(row, scores.get(row["task"], {})) for row in read_facts("tasks.csv")}


def published_models() -> list[str]:
    """The ten models with published scores."""
    return list(catalog()["EMP/H3"].published)


def identify(directory: Path) -> Task | None:
    """The data set in a directory, by its name and its parent's in any spelling in use; None if it is unknown."""
    parts = directory.resolve().parts
    for name in ("_".join(parts[-2:]), parts[-1]):
        if (task := _names().get(_plain(name))) is not None:
            return task
    return None


def benchmark_order(name: str) -> tuple[int, str]:
    """Sorting key of data sets: in the benchmark's order, others last."""
    known = list(catalog())
    return (known.index(name) if name in known else len(known), name)


@cache
def _names() -> dict[str, Task]:
    """Data sets by plain name: EMP/H3 is emp_h3 and h3; tf/0 is tf_0, tf0 and human_tf_0, and never 0 alone."""
    names: dict[str, Task] = {}
    for task in catalog().values():
        group, name = task.name.split("/")
        spellings = {f"{prefix}{joint}{name}" for prefix in _OTHER_GROUPS.get(group, (group,)) for joint in ("_", "")}
        if not name.isdecimal() and group != "species":
            spellings.add(name)
        if group == "species":
            spellings |= {f"{name}_species", f"{name}_species_{ {'fungi': 20, 'virus': 40}[name] }"}
        if name in ("reconstructed", "HeLa-S3"):
            spellings |= {"splice", "splice_site"} if name == "reconstructed" else {"HeLa", "EPI_HeLa"}
        names |= {_plain(spelling): task for spelling in spellings}
    return names


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _task(row: dict[str, str], published: dict[str, float]) -> Task:
    known = {key: value for key, value in row.items() if value}
    content = {
        "name": known["task"],
        **{key: known[key] for key in ("suite", "what", "metric")},
        "rows": {split: known[f"{split}_rows"] for split in SPLITS if f"{split}_rows" in known},
        "settings": {field.name: known[field.name] for field in fields(FinetuneSettings) if field.name in known},
        "published": published,
    }
    return TypeAdapter(Task).validate_python(content)


def read_facts(file: str) -> list[dict[str, str]]:
    """The rows of one of the CSV files beside this module."""
    return list(csv.DictReader(files(__package__).joinpath(file).read_text(encoding="utf-8").splitlines()))
