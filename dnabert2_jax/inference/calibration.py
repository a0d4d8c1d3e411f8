"""Calibration of a classifier: a temperature fitted on a table, by which its last layer is divided.

The layer's weights and bias are divided, so everything that reads the model, here or in the Hugging Face layout, gets
calibrated probabilities, and the format of model directories knows nothing of it.
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
from dnabert2_jax.metrics.tasks import metrics_for


@dataclass(frozen=True)
class Calibration:
    """A classifier whose probabilities fit a table.

    Attributes:
        model: the calibrated classifier.
        temperature: by which its logits are divided, compared with the model that was given.
        table: what it was fitted on.
        before: scores on this table, and ``after``.
        reliability_before: how probabilities compared with what is right, and ``reliability_after``.
    """

    model: InferenceModel
    temperature: float
    table: Path
    before: Scores
    after: Scores
    reliability_before: Reliability
    reliability_after: Reliability

    def rows(self) -> list[dict[str, str]]:
        """What changed, for people."""
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
        model: a classifier, of one label a row or of several.
        table: rows with the labels that it was trained on; those that are too long are truncated, as in training.
        batch_tokens: tokens of a batch.
        title: shows progress.

    Raises:
        UserError: a regression; no temperature fits; or as :func:`~dnabert2_jax.inference.evaluation.evaluate`.
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
        after=metrics_for(evaluation.labels).compute(labels, after, evaluation.labels),
        reliability_before=reliability(labels, probabilities),
        reliability_after=reliability(labels, after),
    )


def _divided(model: InferenceModel, temperature: float, table: Table) -> InferenceModel:
    """The model with its last layer divided, and a note in its provenance."""
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
