"""Calibration of a classifier: its last layer is divided by a temperature fitted on a table.

Because the layer's weights and bias are divided, every reader of the model, here or in the Hugging Face layout, gets
calibrated probabilities, and the format of model directories is unchanged.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.evaluation import evaluate
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Predictor
from dnabert2_jax.metrics.calibration import Reliability, fit_temperature, reliability, tempered
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.metrics.tasks import TASK_METRICS


@dataclass(frozen=True)
class Calibration:
    """A calibrated classifier, with its scores before and after.

    Attributes:
        model: the calibrated classifier.
        temperature: what the logits of the given model are divided by.
        table: the table it was fitted on.
        before: scores on this table before calibration; ``after``, those after it.
        reliability_before: probabilities compared with the fraction of correct decisions; likewise ``reliability_after``.
    """

    model: InferenceModel
    temperature: float
    table: Path
    before: Scores
    after: Scores
    reliability_before: Reliability
    reliability_after: Reliability

    def rows(self) -> list[dict[str, str]]:
        """Scores before and after, as a table for the terminal."""
        sides = (("before", self.before, self.reliability_before), ("after", self.after, self.reliability_after))
        return [
            {
                "": name,
                "calibration error": f"{bins.error:.4f}",
                "cross-entropy": f"{scores['loss']:.4f}",
                "accuracy": f"{scores['accuracy']:.4f}",
            }
            for name, scores, bins in sides
        ]


def calibrate(
    model: InferenceModel, table: Table, *, batch_tokens: int | None = None, title: str | None = None
) -> Calibration:
    """Fit a temperature on a table that the classifier was not trained on, such as the dev table.

    Args:
        model: a classifier, single-label or multi-label.
        table: rows with the labels that it was trained on; rows that are too long are truncated, as in training.
        batch_tokens: tokens per batch.
        title: title of a progress bar; None shows none.

    Raises:
        UserError: the model is a regression, no temperature fits, or as for
            :func:`~dnabert2_jax.inference.evaluation.evaluate`.
    """
    if model.head.task == "regression":
        raise UserError(f"{model.path} predicts measurements, not probabilities; there is nothing to calibrate")
    evaluation = evaluate(model, table, batch_tokens=batch_tokens, title=title)
    labels, probabilities = evaluation.labels.encode(table), evaluation.predictions.outputs
    temperature = fit_temperature(labels, probabilities)
    after: NDArray[np.float64] = tempered(labels, probabilities, temperature)
    return Calibration(
        model=_divided(model, temperature, table),
        temperature=temperature,
        table=table.path,
        before=evaluation.scores,
        after=TASK_METRICS[model.head.task].compute(labels, after, model.labels, model.head),
        reliability_before=reliability(labels, probabilities),
        reliability_after=reliability(labels, after),
    )


def _divided(model: InferenceModel, temperature: float, table: Table) -> InferenceModel:
    """The model with its last layer divided, as noted in its provenance."""
    params = model.predictor.params
    layer = jax.tree.map(lambda x: x / temperature, params["classifier"])
    note = {
        "temperature": temperature,
        "table": str(table.path),
        "of": tree_sha256(jax.device_get(params)),
    }
    earlier = model.provenance.get("calibration", [])
    return replace(
        model,
        predictor=Predictor(model.predictor.forward, {**params, "classifier": layer}),
        provenance={**model.provenance, "calibration": [*earlier, note]},
    )
