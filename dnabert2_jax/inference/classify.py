"""What a trained classifier says of the rows of a table."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import ORIGINAL_HEAD, HeadConfig, LoraConfig
from dnabert2_jax.data.classification import Batches, EncodedTable, choose_lengths, encode_table, evaluation_batches
from dnabert2_jax.data.labels import Labels, saved_labels
from dnabert2_jax.data.strands import other_strand_table
from dnabert2_jax.data.tables import Table
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.heads import head_outputs
from dnabert2_jax.modeling.models import Network, SequenceClassifier, classification_logits
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.types import ClassificationBatch, Tree

Predict = Callable[[Tree, ClassificationBatch], jax.Array]


def make_predict(network: Network[SequenceClassifier], lora: LoraConfig | None, head: HeadConfig = ORIGINAL_HEAD) -> Predict:
    """``predict(params, batch) -> outputs [B, C]``, jitted; ``params`` may hold an adapter beside the model.

    The outputs are those of :func:`~dnabert2_jax.modeling.heads.head_outputs`.
    """

    def predict(params: Tree, batch: ClassificationBatch) -> jax.Array:
        return head_outputs(classification_logits(network, params, batch, lora, False), head)

    return jax.jit(predict)


def predict_rows(predict: Predict, params: Tree, batches: Batches, title: str | None = None) -> NDArray[np.float32]:
    """Outputs of every row in the order of the table, [rows, C]; with a ``title``, shows progress."""
    rows, values = [], []
    bar = ProgressBar(title, len(batches)) if title else None
    with bar or nullcontext():
        for batch in batches:
            rows.append(np.asarray(batch.rows))
            values.append(predict(params, batch))
            if bar:
                bar.advance()
    row, value = np.concatenate(rows), np.concatenate(jax.device_get(values))
    result = np.empty((int(row.max()) + 1, value.shape[1]), np.float32)
    result[row[row >= 0]] = value[row >= 0]
    return result


@dataclass(frozen=True)
class Classifier:
    """A trained classifier, ready to use.

    Attributes:
        params: the model's parts; an adapter is merged into its base.
        tokenizer: makes its ids.
        labels: what its outputs stand for.
        head: how it reads a sequence.
        predict: jitted, see :func:`make_predict`.
    """

    params: Tree
    tokenizer: Tokenizer
    labels: Labels
    head: HeadConfig
    predict: Predict

    @classmethod
    def load(cls, path: Path, compute: Compute, base: Path | None = None) -> "Classifier":
        """Read a classifier's model directory, or an adapter directory with its base.

        Args:
            path: the directory.
            compute: precision and attention backend.
            base: the adapter's base, where it is not where the adapter says.

        Raises:
            UserError: not a classifier, damaged, or not the adapter's base.
        """
        model = InferenceModel.load(path, compute, base)
        model.need("classifier", "scoring", "train one with `dnabert2 finetune`")
        labels, predict = saved_labels(model.head, model.labels), make_predict(model.classifier, None, model.head)
        return cls(model.params, model.tokenizer, labels, model.head, predict)

    def score(
        self, table: Table, *, batch_size: int, max_tokens: int | None = None, reverse_complement: bool = False
    ) -> NDArray[np.float32]:
        """Outputs for a labelled table in file order, [rows, C]; rows cut to ``max_tokens`` are reported.

        Args:
            table: the rows.
            batch_size: rows at a time.
            max_tokens: longest row, special tokens included; by default as in training.
            reverse_complement: give the mean over both strands.
        """
        max_tokens = self.head.max_tokens if max_tokens is None else max_tokens
        encoded = self._encode(table, max_tokens)
        remark(f"{table.path}: {encoded.summary()}")
        tables = [encoded, *([self._encode(other_strand_table(table), max_tokens)] if reverse_complement else [])]
        lengths = choose_lengths(np.concatenate([strand.lengths for strand in tables]))
        strands = [
            predict_rows(self.predict, self.params, evaluation_batches(strand, batch_size, lengths), "predicting")
            for strand in tables
        ]
        return np.mean(strands, axis=0, dtype=np.float32)

    def _encode(self, table: Table, max_tokens: int) -> EncodedTable:
        return encode_table(table, self.tokenizer, self.labels, max_tokens, token_types=self.head.token_types)
