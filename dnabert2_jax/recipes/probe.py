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
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.progress import remark
from dnabert2_jax.recipes.finetuning_steps import Trained
from dnabert2_jax.recipes.finetuning_task import Task
from dnabert2_jax.recipes.keeper import Keeper
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.types import Tree

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's ``C`` or 1 / ``alpha`` to try, strongest penalty first; the "steps" of a probe's metrics."""

_MOST_ITERATIONS = 2000


def fit_probe(task: Task) -> Trained:
    """Fit a linear layer on the mean hidden states of every row's own tokens, and keep it as a classifier without pooler."""
    began = time.monotonic()
    encoder = _encoder(task)
    predictor = Predictor(Forward(task.config, task.compute), {"encoder": encoder})
    features = {name: _features(predictor, table, name) for name, table in (("dev", task.dev), ("test", task.test))}
    strands = [task.train, *([task.reverse] if task.reverse else [])]
    train = np.concatenate([_features(predictor, table, "train") for table in strands])
    train_labels = np.concatenate([table.labels for table in strands])
    first_step_seconds = time.monotonic() - began
    remark(f"{train.shape[0] + sum(map(len, features.values())):,} rows embedded in {first_step_seconds:.1f} s")

    scaler, target = StandardScaler().fit(train), task.target
    keeper, best = Keeper(task, {"encoder": encoder}), -np.inf
    kept: Tree = {}
    # One thread, so that the last digits do not depend on their number.
    with threadpool_limits(limits=1, user_api="blas"), MetricsLog(task.directory, 0) as log:
        fit = _fitter(task, scaler.transform(train), train_labels)
        for step, inverse_penalty in enumerate(INVERSE_PENALTIES, start=1):
            layer = _unscaled(*fit(inverse_penalty), scaler)
            fitted, scores = (
                target.scores(labels, _outputs(layer, rows, task.head))
                for labels, rows in ((train_labels, train), (task.dev.labels, features["dev"]))
            )
            measured = {"loss": fitted["loss"], "inverse_penalty": inverse_penalty}
            if "accuracy" in fitted:
                measured["accuracy"] = fitted["accuracy"]
            log.write(step, **measured)
            log.write(step, **target.metrics.dev_line(scores))
            score = target.selection_score(scores, task.run.training)
            if score > best:
                best, kept = score, layer
                keeper.save({"classifier": layer}, {"dev": scores, "step": step, "inverse_penalty": inverse_penalty})
    trained = sum(part.size for part in kept.values())
    return Trained(keeper, _outputs(kept, features["test"], task.head), trained, first_step_seconds)


def _encoder(task: Task) -> Tree:
    """The base's encoder, or random weights."""
    if task.base is not None:
        return jax.device_put(task.base.params["encoder"])
    network = sequence_classifier(task.config, len(task.labels), task.compute, task.head.pooling)
    encoder: Tree = network.init(task.run.seed)["encoder"]
    return encoder


def _features(encoder: Predictor, table: EncodedTable, name: str) -> NDArray[np.float32]:
    """Mean hidden state of each row's own tokens, [rows, D]."""
    return encoder.pooled(pack(table, default_batch_tokens()), "mean", f"embedding {name}")


Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weights [C, D] and intercepts [C]."""


def _fitter(task: Task, rows: NDArray[np.floating], labels: NDArray[Any]) -> Callable[[float], Layer]:
    """What fits a linear layer on scaled rows [rows, D] for an inverse penalty; each fit goes on from the one before."""
    if task.head.task == "regression":
        standardised = (labels.astype(np.float64) - task.head.mean) / task.head.deviation

        def ridge(inverse_penalty: float) -> Layer:
            fitted = Ridge(alpha=1 / inverse_penalty).fit(rows, standardised)
            return fitted.coef_[None], np.atleast_1d(fitted.intercept_)

        return ridge

    def logistic() -> LogisticRegression:
        balanced = "balanced" if task.run.training.class_weights == "balanced" else None
        return LogisticRegression(max_iter=_MOST_ITERATIONS, tol=1e-4, warm_start=True, class_weight=balanced)

    if task.head.task == "single_label":
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
    """For a label that all training rows have: Laplace's rule of succession, whatever the sequence."""
    with_it = float(column.sum())
    return np.zeros(width), float(np.log((with_it + 1) / (len(column) - with_it + 1)))


def class_logits(regression: LogisticRegression) -> Layer:
    """A fitted regression's layer with one logit a class.

    Of two classes scikit-learn has the difference of the logits alone, half of which each of them gets here.
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
    """What the classifier will say, [rows, C]."""
    logits = features.astype(np.float64) @ layer["kernel"] + layer["bias"]
    return np.asarray(head_outputs(jnp.asarray(logits, jnp.float32), head))
