"""The benchmark's pictures: scores by data set beside the published ones, and several benchmarks side by side."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnabert2_jax.gue.catalog import METRIC_NAMES, REFERENCE, Task
from dnabert2_jax.gue.summary import TaskSummary, task_of
from dnabert2_jax.reports.plots.style import LIGHT, Theme, display_name, legend_below, new_figure


def score_picture(tasks: Sequence[TaskSummary], theme: Theme = LIGHT) -> Figure:
    """One line per data set: seeds, k-mer regression, the published DNABERT-2 and the range of all published models.

    Args:
        tasks: data sets with at least one finished run.
        theme: colors.
    """
    figure, axis = _lines([task_of(summary) for summary in tasks], theme, 0.26)
    for row, summary in enumerate(tasks):
        task = task_of(summary)
        if task.published:
            low, high = min(task.published.values()), max(task.published.values())
            axis.plot([low, high], [row, row], color=theme.muted, lw=5, alpha=0.35, solid_capstyle="round")
            axis.plot(task.published[REFERENCE], row, "D", color=theme.ground, mec=theme.ink, ms=6)
        axis.plot(100 * summary["data"]["kmer"][task.metric], row, "|", color=theme.colors[1], ms=12, mew=2.5)
        values = [100 * value for value in summary["scores"][task.metric]["values"]]
        axis.plot(values, [row] * len(values), "o", color=theme.colors[0], ms=6, alpha=0.75, mew=0)
    axis.set_xlabel("score x 100")
    axis.plot([], [], "o", color=theme.colors[0], ms=6, mew=0, label="this model, each seed")
    axis.plot([], [], "|", color=theme.colors[1], ms=12, mew=2.5, label="k-mer regression")
    if any(task_of(summary).published for summary in tasks):
        axis.plot([], [], "D", color=theme.ground, mec=theme.ink, ms=6, label=f"published {REFERENCE}")
        axis.plot([], [], color=theme.muted, lw=5, alpha=0.35, label="ten published models")
    legend_below(figure, theme, columns=2)
    return figure


def distance_picture(tasks: Sequence[TaskSummary], theme: Theme = LIGHT) -> Figure:
    """One line per data set: how far the mean over seeds is above the k-mer regression and the published DNABERT-2.

    Args:
        tasks: data sets with at least one finished run.
        theme: colors.
    """
    figure, axis = _lines([task_of(summary) for summary in tasks], theme, 0.26)
    axis.axvline(0, color=theme.muted, lw=1)
    for row, summary in enumerate(tasks):
        task = task_of(summary)
        mean = 100 * summary["scores"][task.metric]["mean"]
        marks = [(100 * summary["data"]["kmer"][task.metric], theme.colors[1], "s", -0.13)]
        if task.published:
            marks.append((task.published[REFERENCE], theme.colors[2], "D", 0.13))
        for reference, color, marker, shift in marks:
            axis.plot([0, mean - reference], [row + shift] * 2, color=color, lw=1.2)
            axis.plot(mean - reference, row + shift, marker, color=color, ms=5)
    axis.plot([], [], "s", color=theme.colors[1], ms=5, label="above k-mer regression")
    if any(task_of(summary).published for summary in tasks):
        axis.plot([], [], "D", color=theme.colors[2], ms=5, label=f"above published {REFERENCE}")
    axis.set_xlabel("difference x 100")
    legend_below(figure, theme, columns=2)
    return figure


def comparison_picture(
    names: Sequence[str], scored: Sequence[tuple[Task, Sequence[TaskSummary | None]]], theme: Theme = LIGHT
) -> Figure:
    """One line per data set, on it a row of dots for each benchmark.

    Args:
        names: of the benchmarks.
        scored: each data set, and its results in each benchmark.
        theme: colors.
    """
    figure, axis = _lines([task for task, _ in scored], theme, 0.16 + 0.12 * len(names))
    step = 0.7 / len(names)
    for row, (task, columns) in enumerate(scored):
        kmer = 100 * next(column["data"]["kmer"][task.metric] for column in columns if column)
        axis.plot([kmer] * 2, [row - 0.4, row + 0.4], color=theme.muted, lw=1.6)
        for n, column in enumerate(columns):
            if column:
                values = [100 * value for value in column["scores"][task.metric]["values"]]
                at = row + (n - (len(columns) - 1) / 2) * step
                color, marker = theme.marker(n)
                axis.plot(values, [at] * len(values), marker, color=color, ms=5, alpha=0.75, mew=0)
    for n, name in enumerate(names):
        color, marker = theme.marker(n)
        axis.plot([], [], marker, color=color, ms=5, mew=0, label=display_name(name))
    axis.plot([], [], color=theme.muted, lw=1.6, label="k-mer regression")
    axis.set_xlabel("score x 100")
    legend_below(figure, theme, columns=2 if max(map(len, names)) <= 20 else 1)
    return figure


def _lines(tasks: Sequence[Task], theme: Theme, height: float) -> tuple[Figure, Axes]:
    """A figure with a named line for each data set, ``height`` inches each."""
    figure, (axis,) = new_figure(theme, 1.6 + height * len(tasks), heights=(1,))
    axis.set_yticks(range(len(tasks)), [f"{task.name} ({METRIC_NAMES[task.metric]})" for task in tasks], fontsize=8)
    axis.set_ylim(len(tasks) - 0.4, -0.6)
    axis.margins(x=0.08)
    axis.grid(False, axis="y")
    return figure, axis
