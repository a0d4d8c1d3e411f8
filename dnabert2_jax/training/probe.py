"""A linear probe: logistic regression on the encoder's mean hidden states, which are computed once.

What an encoder knows before it is fine-tuned, and a classifier in seconds. The problem is convex, so there is no schedule,
no learning rate and no unlucky seed: one regression for each of a few penalties is fitted to its optimum, and the best on
the dev table is kept.
"""

import time

import jax
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dnabert2_jax.data.classification import EncodedTable
from dnabert2_jax.data.packing import PackedBatch, TokenRow, pack
from dnabert2_jax.evaluation.metrics import classification_metrics
from dnabert2_jax.inference.model import InferenceModel, default_batch_tokens, run_batches
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.progress import remark
from dnabert2_jax.training.finetuning_steps import Trained, dev_line, selection_score
from dnabert2_jax.training.finetuning_task import Task
from dnabert2_jax.training.keeper import Keeper
from dnabert2_jax.training.workdir import MetricsLog
from dnabert2_jax.types import Tree

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's ``C`` that are tried, strongest penalty first; the "steps" of a probe's metrics."""

_MOST_ITERATIONS = 2000


def fit_probe(task: Task) -> Trained:
    """Fit a linear layer on the mean hidden states of every row's own tokens, and keep it as a classifier without pooler."""
    began = time.monotonic()
    encoder = _encoder(task)
    features = {name: _features(task, encoder, table, name) for name, table in (("dev", task.dev), ("test", task.test))}
    strands = [task.train, *([task.reverse] if task.reverse else [])]
    train = np.concatenate([_features(task, encoder, table, "train") for table in strands])
    train_labels = np.concatenate([table.labels for table in strands])
    first_step_seconds = time.monotonic() - began
    remark(f"{train.shape[0] + sum(map(len, features.values())):,} rows embedded in {first_step_seconds:.1f} s")

    scaler = StandardScaler().fit(train)
    balanced = task.run.training.class_weights == "balanced"
    # Each fit goes on from the one before. One thread, so that the last digits do not depend on their number.
    regression = LogisticRegression(
        max_iter=_MOST_ITERATIONS, tol=1e-4, warm_start=True, class_weight="balanced" if balanced else None
    )
    keeper, best = Keeper(task, {"encoder": encoder}), -np.inf
    kept: Tree = {}
    with threadpool_limits(limits=1, user_api="blas"), MetricsLog(task.directory, 0) as log:
        scaled = scaler.transform(train)
        for step, inverse_penalty in enumerate(INVERSE_PENALTIES, start=1):
            regression.set_params(C=inverse_penalty).fit(scaled, train_labels)
            layer = _linear_layer(regression, scaler)
            fitted, scores = (
                classification_metrics(labels, _probabilities(layer, rows), task.labels.names)
                for labels, rows in ((train_labels, train), (task.dev.labels, features["dev"]))
            )
            measured = {"loss": fitted["loss"], "accuracy": fitted["accuracy"], "inverse_penalty": inverse_penalty}
            log.write(step, **measured)
            log.write(step, **dev_line(scores))
            score = selection_score(scores, task.run.training)
            if score > best:
                best, kept = score, layer
                keeper.save({"classifier": layer}, {"dev": scores, "step": step, "inverse_penalty": inverse_penalty})
    trained = sum(part.size for part in kept.values())
    return Trained(keeper, _probabilities(kept, features["test"]), trained, first_step_seconds)


def _encoder(task: Task) -> Tree:
    """The base's encoder, or random weights."""
    if task.base is not None:
        return jax.device_put(task.base.params["encoder"])
    network = sequence_classifier(task.config, len(task.labels), task.compute, task.head.pooling)
    encoder: Tree = network.init(task.run.seed)["encoder"]
    return encoder


def _features(task: Task, encoder: Tree, table: EncodedTable, name: str) -> NDArray[np.float32]:
    """Mean hidden state of each row's own tokens, [rows, D]."""
    model = InferenceModel(
        task.directory.model, "masked_lm", task.config, {"encoder": encoder}, task.tokenizer, (), task.compute
    )
    rows = [TokenRow(ids, int(first)) for ids, first in zip(table.input_ids, table.first_tokens, strict=True)]
    features = np.empty((len(rows), task.config.hidden_size), np.float32)

    def run(batch: PackedBatch) -> jax.Array:
        return model.pooled_slots(model.params, batch.tokens, batch.starts, pooling="mean")

    for batch, slots in run_batches(run, pack(rows, default_batch_tokens()), f"embedding {name}"):
        features[batch.sequences[batch.used]] = slots[batch.used]
    return features


def _linear_layer(regression: LogisticRegression, scaler: StandardScaler) -> dict[str, NDArray[np.float32]]:
    """``kernel`` [D, C] and ``bias`` [C] for features as they are; the scaling is folded in.

    Of two classes scikit-learn has the difference of the logits alone, half of which each of them gets here.
    """
    weights, bias = np.asarray(regression.coef_), np.asarray(regression.intercept_)
    if len(weights) == 1:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    kernel = (weights / scaler.scale_).T
    return {"kernel": kernel.astype(np.float32), "bias": (bias - scaler.mean_ @ kernel).astype(np.float32)}


def _probabilities(layer: Tree, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class probabilities, [rows, C]."""
    logits = features.astype(np.float64) @ layer["kernel"] + layer["bias"]
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return (shifted / shifted.sum(1, keepdims=True)).astype(np.float32)
