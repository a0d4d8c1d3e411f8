"""What a classifier says about sequences; long ones are read in overlapping windows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import LongSequences
from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.data.encoding import EncodedRows, encode_sequences
from dnabert2_jax.data.labels import MultiLabelSet
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.sequences import Sequences, other_strand
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions, in the order of the input.

    Attributes:
        names: name of each sequence.
        classes: class names by class number; for a regression, the measurement's name.
        outputs: probabilities or measurements, the mean over a sequence's windows. [sequences, C], float32.
        windows: how many windows a sequence was read in; 1 if it fits as a whole. [sequences].
        cut_bases: bases that were not read. [sequences].
        task: what the outputs mean.
        max_tokens: longest input of the classifier.
    """

    names: list[str]
    classes: tuple[str, ...]
    outputs: NDArray[np.float32]
    windows: NDArray[np.int64]
    cut_bases: NDArray[np.int64]
    task: TaskKind
    max_tokens: int

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The probability of each class, [sequences, C]: they sum to 1 unless a sequence may have several labels.

        Raises:
            UserError: for a regression, which has none.
        """
        if self.task == "regression":
            raise UserError("a regression has no probabilities; its predictions are in `values`")
        return self.outputs

    @property
    def values(self) -> NDArray[np.float32]:
        """The predicted measurements in their own unit, [sequences].

        Raises:
            UserError: for a classifier, which has none.
        """
        if self.task != "regression":
            raise UserError("a classifier predicts no measurements; its predictions are in `labels` and `probabilities`")
        return self.outputs[:, 0]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each sequence; or, joined by ``;``, all labels more probable than not, ``-`` for none.

        Raises:
            UserError: for a regression, which has none.
        """
        if self.task == "multi_label":
            return list(map(MultiLabelSet(self.classes).write, self.probabilities > 0.5))
        return [self.classes[number] for number in self.probabilities.argmax(1)]

    def columns(self) -> dict[str, Any]:
        """The predictions as columns of a table: label or value, and a probability for each class."""
        if self.task == "regression":
            said: dict[str, Any] = {"value": self.values}
        else:
            said = {"label": self.labels, **{f"p_{name}": self.outputs[:, c] for c, name in enumerate(self.classes)}}
        return {"name": self.names, **said, "windows": self.windows, "cut_bases": self.cut_bases}

    def summary(self) -> str | None:
        """One line about sequences that did not fit ``max_tokens``, for the terminal; None if all did."""
        lines = []
        if several := int(np.count_nonzero(self.windows > 1)):
            windows = int(self.windows[self.windows > 1].sum())
            lines.append(
                f"sequences of more than {self.max_tokens:,} tokens: {several:,}, read in {windows:,} overlapping windows "
                "whose predictions were averaged"
            )
        if cut := int(np.count_nonzero(self.cut_bases)):
            lines.append(
                f"rows cut to {self.max_tokens:,} tokens: {cut:,}; {int(self.cut_bases.sum()):,} bases were not read"
            )
        return "; ".join(lines) or None


def predict(
    model: InferenceModel,
    sequences: Sequences,
    *,
    max_tokens: int | None = None,
    long: LongSequences = "windows",
    overlap: float = 0.5,
    reverse_complement: bool = False,
    batch_tokens: int | None = None,
    title: str | None = None,
) -> Predictions:
    """Class probabilities of sequences or pairs, or their measurements.

    Pairs have the token types that the model was trained with.

    Args:
        model: a classifier.
        sequences: what to classify.
        max_tokens: longest input of the classifier, in tokens, special tokens included; by default as in training.
        long: what to do with longer ones; see :func:`~dnabert2_jax.data.encoding.encode_sequences`.
        overlap: minimum window overlap as a fraction of a window.
        reverse_complement: average over both strands; ``windows`` and ``cut_bases`` are those of the given strand.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 elsewhere.
        title: shows progress.

    Raises:
        UserError: not a classifier, an option out of range, a long pair that may not be cut, or out of memory.
    """
    model.need("classifier", "prediction", "train one with `dnabert2 finetune`")
    max_tokens = model.head.max_tokens if max_tokens is None else max_tokens
    strands = [
        encode_sequences(strand, model.tokenizer, max_tokens, long=long, overlap=overlap, token_types=model.head.token_types)
        for strand in (sequences, *([other_strand(sequences)] if reverse_complement else []))
    ]
    rows = EncodedRows(
        [ids for strand in strands for ids in strand.input_ids],
        np.concatenate([strand.first_tokens for strand in strands]),
    )
    batches = pack(rows, batch_tokens or default_batch_tokens())
    outputs = model.predictor.class_outputs(batches, title)
    # The mean over a sequence's windows on each strand, then over strands.
    windows = np.concatenate([strand.windows for strand in strands])
    means = np.add.reduceat(outputs, np.cumsum(windows) - windows, axis=0, dtype=np.float64) / windows[:, None]
    means = means.reshape(len(strands), len(sequences), -1).mean(0).astype(np.float32)
    given = strands[0]
    return Predictions(sequences.names, model.labels, means, given.windows, given.cut_bases, model.head.task, max_tokens)
