"""The page of a hyperparameter search: the trials by dev score, and a picture of the effect of each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.metrics.tasks import TASK_METRICS
from dnabert2_jax.reports.page import Block, Page, Pictures, Section, Table, Text, write_page
from dnabert2_jax.reports.plots.style import LIGHT, Theme, drawn, new_figure


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run of a sweep.

    Attributes:
        number: from 0, in the order of the proposals.
        settings: what was searched, ``section.key`` to value.
        dev: scores on the dev table.
        test: scores on the test table.
        seconds: training time.
        error: why it failed, if it did; it has no scores then.
    """

    number: int
    settings: Mapping[str, str]
    dev: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What a search found.

    Attributes:
        trials: all of them, in order.
        best: number of the one with the best dev score.
        score: the score that trials are compared by.
        task: what the label column holds.
        dev: the table, or the contigs, that select.
    """

    trials: Sequence[Trial]
    best: int
    score: str
    task: TaskKind
    dev: str

    @property
    def ranked(self) -> list[Trial]:
        """Trials with scores, the best first."""
        scored = [trial for trial in self.trials if trial.error is None]
        return sorted(scored, key=lambda trial: trial.dev[self.score], reverse=self.score != "loss")

    @property
    def score_name(self) -> str:
        """The score as it is written."""
        return TASK_METRICS[self.task].shown.get(self.score, self.score)

    def rows(self) -> list[dict[str, str]]:
        """The trials as a table, the best first."""
        main = TASK_METRICS[self.task].main
        return [
            {
                "trial": str(trial.number),
                **trial.settings,
                f"dev {self.score_name}": f"{trial.dev[self.score]:.4f}",
                f"test {TASK_METRICS[self.task].shown[main]}": f"{trial.test[main]:.4f}",
                "seconds": f"{trial.seconds:.0f}",
            }
            for trial in self.ranked
        ]


def write_sweep(file: Path, sweep: Sweep) -> Path:
    """Write the page.

    Raises:
        UserError: it cannot be written.
    """
    best = sweep.trials[sweep.best]
    blocks: list[Block] = [
        Pictures([drawn(f"dev {sweep.score_name} of each trial by the settings searched", partial(sweep_picture, sweep))]),
        Text("Dev scores select; test scores are those of each trial's best evaluation; they select nothing."),
        Table.from_records(sweep.rows(), text_columns=1 + len(best.settings)),
    ]
    sections = [Section("trials", "Trials", blocks)]
    if failed := [trial for trial in sweep.trials if trial.error is not None]:
        rows = [(str(trial.number), _settings(trial), str(trial.error)) for trial in failed]
        sections.append(Section("failed", "Failed", [Table(("trial", "settings", "why"), rows, text_columns=3)]))
    page = Page(
        "Hyperparameter search",
        f"{len(sweep.trials)} trials, compared on {sweep.dev}",
        sections,
        [(f"{best.dev[sweep.score]:.4f}", f"best dev {sweep.score_name}"), (str(best.number), _settings(best))],
        ["The best of many dev scores is optimistic by selection; rely on the test score, and look at it only once."],
    )
    return write_page(file, page)


def sweep_picture(sweep: Sweep, theme: Theme = LIGHT) -> Figure:
    """Dev score against each setting, one panel each; the best trial is marked."""
    names = list(sweep.trials[sweep.best].settings)
    figure, axes = new_figure(theme, 0.6 + 1.9 * len(names), heights=(1,) * len(names))
    for axis, name in zip(axes, names, strict=True):
        values = [trial.settings[name] for trial in sweep.ranked]
        scores = [trial.dev[sweep.score] for trial in sweep.ranked]
        places = _numbers(values)
        if places is None:
            kinds = sorted(set(values))
            places = [float(kinds.index(value)) for value in values]
            axis.set_xticks(range(len(kinds)), kinds)
            axis.set_xlim(-0.5, len(kinds) - 0.5)
        elif min(places) > 0 and max(places) > 20 * min(places):
            axis.set_xscale("log")
        axis.plot(places, scores, "o", color=theme.colors[0], alpha=0.7, ms=5)
        axis.plot(places[:1], scores[:1], "o", color=theme.colors[1], ms=8)
        axis.set(xlabel=name, ylabel=f"dev {sweep.score_name}")
    return figure


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _settings(trial: Trial) -> str:
    return ", ".join(f"{key}={value}" for key, value in trial.settings.items())
