"""What a fine-tuning run left, and how what it saved scores."""

from pathlib import Path

from dnabert2_jax.data.labels import saved_labels
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.metrics.scores import classification_metrics
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.training.workdir import MetricsLog


def tables(home: Path) -> dict[str, str]:
    return {split: str(home / f"{split}.csv") for split in ("train", "dev", "test")}


def score(directory: Path, table: Path):
    classifier, data = InferenceModel.load(directory, Compute()), read_table(table)
    probabilities = predict(classifier, data, max_tokens=512, long="cut").probabilities
    labels = saved_labels(classifier.head, classifier.labels)
    return probabilities, classification_metrics(labels.encode(data), probabilities, labels.names)


def dev_mccs(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["dev_mcc"] for line in MetricsLog.read(workdir) if "dev_mcc" in line}
