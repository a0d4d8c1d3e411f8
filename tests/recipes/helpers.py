"""What a fine-tuning run left, and how what it saved scores."""

from pathlib import Path

from dnabert2_jax.data.tables import read_table
from dnabert2_jax.inference.classify import Classifier
from dnabert2_jax.metrics.scores import classification_metrics
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.training.workdir import MetricsLog


def tables(home: Path) -> dict[str, str]:
    return {split: str(home / f"{split}.csv") for split in ("train", "dev", "test")}


def score(directory: Path, table: Path):
    classifier = Classifier.load(directory, Compute())
    data = read_table(table)
    probabilities = classifier.score(data, batch_size=7, max_tokens=512)
    return probabilities, classification_metrics(classifier.labels.encode(data), probabilities, classifier.labels.names)


def dev_mccs(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["dev_mcc"] for line in MetricsLog.read(workdir) if "dev_mcc" in line}
