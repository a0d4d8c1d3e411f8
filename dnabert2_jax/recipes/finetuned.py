"""The result of a fine-tuning run, and ``scores.json``."""

from dataclasses import asdict, dataclass
from pathlib import Path

from dnabert2_jax.metrics.intervals import Intervals
from dnabert2_jax.metrics.scores import ClassificationMetrics, Scores
from dnabert2_jax.recipes.finetuning_job import FinetuningJob
from dnabert2_jax.recipes.finetuning_steps import Trained


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning run.

    Attributes:
        model: the classifier directory (an adapter is merged into it).
        adapter: the adapter directory; None if no adapter was trained.
        test: scores on the test rows.
        intervals: confidence intervals of the test scores.
        dev: scores on the dev rows at the evaluation that was kept.
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


def finished(
    job: FinetuningJob,
    trained: Trained,
    test: Scores,
    intervals: Intervals,
    seconds: float,
    clean: ClassificationMetrics | None = None,
) -> Finetuned:
    """The result of a run whose model is written; ``scores.json`` is written here.

    Args:
        job: the run.
        trained: the result of training.
        test: scores on the test rows.
        intervals: their confidence intervals.
        seconds: training time, with that of earlier calls.
        clean: scores without the test rows that other tables share.
    """
    result = Finetuned(
        model=job.directory.model,
        adapter=trained.best.adapter_path,
        test=test,
        intervals=intervals,
        dev=trained.best.metrics["dev"],
        best_step=trained.best.metrics["step"],
        trained_parameters=trained.trained_parameters,
        seconds=seconds,
        first_step_seconds=trained.first_step_seconds,
        clean=clean,
    )
    scores = {**asdict(result), "model": str(result.model), "adapter": str(result.adapter or "")}
    job.directory.write_json("scores.json", scores)
    return result
