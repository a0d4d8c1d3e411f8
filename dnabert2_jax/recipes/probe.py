"""A linear probe: a regression on the encoder's mean hidden states, which are computed once.

Logistic for classes, one for each label where a row may have several, and ridge regression for measurements.

What an encoder knows before it is fine-tuned, and a classifier in seconds. The problem is convex, so there is no schedule,
no learning rate and no unlucky seed: one regression for each of a few penalties is fitted to its optimum, and the best on
the dev table is kept.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.packing import pack
from dnabert2_jax.inference.predictor import Forward, Predictor, default_batch_tokens
from dnabert2_jax.modeling.heads import head_outputs
from dnabert2_jax.modeling.models import count_parameters, sequence_classifier
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.best import Best
from dnabert2_jax.recipes.finetuning_job import TablesJob
from dnabert2_jax.recipes.finetuning_steps import Trained
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.types import Tree

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's ``C`` or 1 / ``alpha`` to try, strongest penalty first; the "steps" of a probe's metrics."""

_MOST_ITERATIONS = 2000


def fit_probe(job: TablesJob) -> Trained:
    """Fit a linear layer on the mean hidden states of every row's own tokens; keep it as a classifier without a pooler."""
    began = time.monotonic()
    encoder = _encoder(job)
    predictor = Predictor.on_local_devices(Forward(job.config, job.compute), {"encoder": encoder})

    def embed(table: EncodedTable, name: str) -> NDArray[np.float32]:
        return predictor.pooled(pack(table, default_batch_tokens()), "mean", f"embedding {name}")

    dev, test = embed(job.dev, "dev"), embed(job.test, "test")
    strands = [job.train, *([job.reverse] if job.reverse else [])]
    train = np.concatenate([embed(table, "train") for table in strands])
    train_labels = np.concatenate([table.labels for table in strands])
    first_step_seconds = time.monotonic() - began
    remark(f"{len(train) + len(dev) + len(test):,} rows embedded in {first_step_seconds:.1f} s")

    scaler, best = StandardScaler().fit(train), Best(job, {"encoder": encoder})
    # One thread, so that the last digits do not depend on the number of threads.
    with threadpool_limits(limits=1, user_api="blas"), MetricsLog(job.directory, 0) as log:
        fit = _fitter(job, scaler.transform(train), train_labels)
        for step, inverse_penalty in enumerate(INVERSE_PENALTIES, start=1):
            layer = _unscaled(*fit(inverse_penalty), scaler)
            fitted = job.metrics.compute(train_labels, _outputs(layer, train, job.head), job.labels.names, job.head)
            scores = job.scores(job.dev, _outputs(layer, dev, job.head))
            accuracy = {"accuracy": fitted["accuracy"]} if "accuracy" in fitted else {}
            log.write(step, loss=fitted["loss"], inverse_penalty=inverse_penalty, **accuracy)
            log.write(step, **job.metrics.dev_line(scores))
            best.consider(step, scores, {"classifier": layer}, inverse_penalty=inverse_penalty)
    kept = best.trainable["classifier"]
    return Trained(best, _outputs(kept, test, job.head), count_parameters(kept), first_step_seconds)


def _encoder(job: TablesJob) -> Tree:
    """The base's encoder, or random weights."""
    if job.base is not None:
        return jax.device_put(job.base.params["encoder"])
    network = sequence_classifier(job.config, len(job.labels), job.compute, job.head.pooling)
    encoder: Tree = network.init(job.run.seed)["encoder"]
    return encoder


Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weights [C, D] and intercepts [C]."""


def _fitter(job: TablesJob, rows: NDArray[np.floating], labels: NDArray[Any]) -> Callable[[float], Layer]:
    """Fits a linear layer on scaled rows [rows, D] for an inverse penalty; each fit starts from the one before."""
    if job.head.task == "regression":
        standardized = (labels.astype(np.float64) - job.head.mean) / job.head.deviation

        def ridge(inverse_penalty: float) -> Layer:
            fitted = Ridge(alpha=1 / inverse_penalty).fit(rows, standardized)
            return fitted.coef_[None], np.atleast_1d(fitted.intercept_)

        return ridge

    def logistic() -> LogisticRegression:
        balanced = "balanced" if job.run.training.class_weights == "balanced" else None
        return LogisticRegression(max_iter=_MOST_ITERATIONS, tol=1e-4, warm_start=True, class_weight=balanced)

    if job.head.task == "single_label":
        regression = logistic()
        return lambda inverse_penalty: class_logits(regression.set_params(C=inverse_penalty).fit(rows, labels))

    regressions = [logistic() if len(np.unique(column)) == 2 else None for column in labels.T]

    def several(inverse_penalty: float) -> Layer:
        layers = [
            _always(column, rows.shape[1]) if one is None else _one(one.set_params(C=inverse_penalty).fit(rows, column))
            for one, column in zip(regressions, labels.T, strict=True)
        ]
        return np.stack([weights for weights, _ in layers]), np.array([intercept for _, intercept in layers])

    return several


def _one(regression: LogisticRegression) -> tuple[NDArray[np.float64], float]:
    return np.asarray(regression.coef_)[0], float(regression.intercept_[0])


def _always(column: NDArray[np.floating], width: int) -> tuple[NDArray[np.float64], float]:
    """For a label that all training rows have, or none: Laplace's rule of succession, whatever the sequence."""
    with_it = float(column.sum())
    return np.zeros(width), float(np.log((with_it + 1) / (len(column) - with_it + 1)))


def class_logits(regression: LogisticRegression) -> Layer:
    """A fitted regression's layer with one logit per class.

    For two classes, scikit-learn has only the difference of the logits, half of which each class gets here.
    """
    weights, bias = np.asarray(regression.coef_), np.asarray(regression.intercept_)
    if len(weights) == 1:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return weights, bias


def _unscaled(weights: NDArray[np.float64], bias: NDArray[np.float64], scaler: StandardScaler) -> Tree:
    """``kernel`` [D, C] and ``bias`` [C] for features as they are; the scaling is folded in."""
    kernel = (weights / scaler.scale_).T
    return {"kernel": kernel.astype(np.float32), "bias": (bias - scaler.mean_ @ kernel).astype(np.float32)}


def _outputs(layer: Tree, features: NDArray[np.float32], head: HeadConfig) -> NDArray[np.float32]:
    """The outputs of the classifier, [rows, C]."""
    logits = features.astype(np.float64) @ layer["kernel"] + layer["bias"]
    return np.asarray(head_outputs(jnp.asarray(logits, jnp.float32), head))
