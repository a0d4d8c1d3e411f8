"""Predictions of a classifier for sequences; long ones are read in overlapping windows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.inference import LongSequences
from dnabert2_jax.config.model import TaskKind
from dnabert2_jax.data.encoding import EncodedRows, encode_sequences
from dnabert2_jax.data.labels import MultiLabelSet
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError, counted
from dnabert2_jax.extras import optional_package
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.inference.quality import count_notes, doubts_in, notes_on
from dnabert2_jax.inference.views import views_of

_SHOWN_ROWS = 10


@dataclass(frozen=True, repr=False)
class Predictions:
    """A classifier's predictions, in input order.

    ``predictions[3]`` is one row as a dict, and ``predictions[:3]`` a subset; iteration yields the rows.

    Attributes:
        names: name of each sequence.
        classes: class names by class number; for a regression, the measurement's name.
        outputs: probabilities or measurements, averaged over windows (and models). [sequences, C], float32.
        windows: number of windows that each sequence was read in; 1 if it fits. [sequences].
        cut_bases: bases of each sequence that were not read. [sequences].
        task: the meaning of the outputs.
        max_tokens: maximum input length of the classifier, in tokens.
        notes: reasons to doubt each prediction, see ``inference/quality.py``; empty if there are none. [sequences].
        input_columns: other columns of the input table. [sequences] each.
        training_data: what the classifier was trained on, if known.
        spread: for an ensemble, the standard deviation of the outputs over its models. [sequences, C].
    """

    names: list[str]
    classes: tuple[str, ...]
    outputs: NDArray[np.float32]
    windows: NDArray[np.int64]
    cut_bases: NDArray[np.int64]
    task: TaskKind
    max_tokens: int
    notes: list[str]
    input_columns: dict[str, list[str]] = field(default_factory=dict)
    training_data: Mapping[str, Any] | None = None
    spread: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, row: slice) -> "Predictions": ...
    def __getitem__(self, row: int | slice) -> "dict[str, Any] | Predictions":
        if isinstance(row, slice):
            return replace(
                self,
                names=self.names[row],
                outputs=self.outputs[row],
                windows=self.windows[row],
                cut_bases=self.cut_bases[row],
                notes=self.notes[row],
                input_columns={name: values[row] for name, values in self.input_columns.items()},
                spread=None if self.spread is None else self.spread[row],
            )
        at = range(len(self))[row]  # an index out of range ends iteration
        columns = self[at : at + 1].columns()
        return {name: values[0].item() if isinstance(values, np.ndarray) else values[0] for name, values in columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        said = "values" if self.task == "regression" else f"classes {', '.join(self.classes)}"
        return f"Predictions({counted(len(self), 'sequence')}, {said})"

    def _repr_html_(self) -> str:
        """The first rows as a table, for notebooks."""
        columns = self[:_SHOWN_ROWS].columns()
        cells = [
            [f"{v:.4g}" if isinstance(v, np.floating) else str(v) for v in row]
            for row in zip(*columns.values(), strict=True)
        ]
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        header = "".join(f"<th>{escape(name)}</th>" for name in columns)
        return f"<p>{escape(repr(self))}</p><table><tr>{header}</tr>{rows}</table>"

    def to_pandas(self) -> Any:
        """The columns of :meth:`columns` as a DataFrame indexed by name.

        Raises:
            UserError: pandas is not installed.
        """
        return optional_package("pandas", "to_pandas needs", "pandas").DataFrame(self.columns()).set_index("name")

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The probability of each class, [sequences, C]; rows sum to 1 unless a sequence may have several labels.

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
        """The most probable class of each sequence; for multiple labels, those above one half joined by ``;``, or ``-``.

        Raises:
            UserError: for a regression, which has none.
        """
        if self.task == "multi_label":
            return list(map(MultiLabelSet(self.classes).write, self.probabilities > 0.5))
        return [self.classes[number] for number in self.probabilities.argmax(1)]

    def columns(self) -> dict[str, Any]:
        """The predictions as columns of a table: label or value, a probability for each class, and the input's own columns.

        An ensemble adds the spread of each output: ``spread_<name>``, or ``spread`` for a measurement.

        An input column with one of these names is renamed ``input_<name>``.
        """
        if self.task == "regression":
            said: dict[str, Any] = {"value": self.values}
        else:
            said = {"label": self.labels, **{f"p_{name}": self.outputs[:, c] for c, name in enumerate(self.classes)}}
        if self.spread is not None:
            names = ["spread"] if self.task == "regression" else [f"spread_{name}" for name in self.classes]
            said |= {name: self.spread[:, c] for c, name in enumerate(names)}
        ours = {"name": self.names, **said, "windows": self.windows, "cut_bases": self.cut_bases, "note": self.notes}
        return ours | {f"input_{name}" if name in ours else name: values for name, values in self.input_columns.items()}

    def counts(self) -> Counter[str]:
        """Counts for :func:`summary_of`.

        Sequences read in windows (``long``) and their ``windows``, truncated ones (``cut``) and their ``cut_bases``, and
        sequences with each note.
        """
        long, cut = self.windows > 1, self.cut_bases > 0
        return count_notes(self.notes) + Counter(
            long=int(np.count_nonzero(long)),
            windows=int(self.windows[long].sum()),
            cut=int(np.count_nonzero(cut)),
            cut_bases=int(self.cut_bases.sum()),
        )

    def summary(self) -> str | None:
        """One line for the terminal on sequences over ``max_tokens`` and doubtful predictions; None if there are none."""
        return summary_of(self.counts(), self.max_tokens, self.training_data)


def summary_of(counts: Mapping[str, int], max_tokens: int, training_data: Mapping[str, Any] | None) -> str | None:
    """One line for the terminal on sequences over ``max_tokens`` and doubtful predictions; None if there are none.

    Args:
        counts: see :meth:`Predictions.counts`; they may be summed over several predictions.
        max_tokens: maximum input length of the classifier, in tokens.
        training_data: what it was trained on, if known.
    """
    lines = []
    if counts.get("long"):
        lines.append(
            f"sequences of more than {max_tokens:,} tokens: {counts['long']:,}, read in {counts['windows']:,} overlapping "
            "windows whose predictions were averaged"
        )
    if counts.get("cut"):
        lines.append(f"rows cut to {max_tokens:,} tokens: {counts['cut']:,}; {counts['cut_bases']:,} bases were not read")
    if doubtful := doubts_in(counts, training_data):
        lines.append(doubtful)
    return "; ".join(lines) or None


def predict(
    model: InferenceModel,
    sequences: Sequences,
    *,
    ensemble: Iterable[InferenceModel] = (),
    max_tokens: int | None = None,
    long: LongSequences = "windows",
    overlap: float = 0.5,
    reverse_complement: bool = False,
    views: int = 1,
    batch_tokens: int | None = None,
    few_shapes: bool = False,
    title: str | None = None,
) -> Predictions:
    """Predict the class probabilities or measurements of sequences or pairs.

    Pairs get the token types that the model was trained with.

    Args:
        model: a classifier.
        sequences: the sequences or pairs.
        ensemble: further models; outputs are the mean over all models, and their spread is given. Windows and notes are
            those of ``model``.
        max_tokens: maximum input length in tokens, special tokens included; by default as in training.
        long: what to do with longer sequences; see :func:`~dnabert2_jax.data.encoding.encode_sequences`.
        overlap: minimum window overlap as a fraction of a window.
        reverse_complement: average over both strands; the same as two views.
        views: average over this many views of each sequence, see :mod:`dnabert2_jax.inference.views`; ``windows`` and
            ``cut_bases`` are those of the first.
        batch_tokens: tokens per batch; by default 4,096 on a CPU, 65,536 per device elsewhere.
        few_shapes: for chunks of a long job, see :func:`~dnabert2_jax.data.packing.pack`.
        title: title of a progress bar; None shows none.

    Raises:
        UserError: not a classifier, models with different outputs, pairs for a model trained on single sequences or vice
            versa, an option out of range, a long pair that may not be truncated, or out of memory.
    """
    models = [model, *ensemble]
    check_ensemble(models)
    views = max(views, 2) if reverse_complement else views
    how = (max_tokens, long, overlap, views, batch_tokens, few_shapes, title)
    members = [_predict(one, sequences, *how) for one in models]
    if len(members) == 1:
        return members[0]
    outputs = np.stack([member.outputs for member in members]).astype(np.float64)
    return replace(members[0], outputs=outputs.mean(0).astype(np.float32), spread=outputs.std(0).astype(np.float32))


def check_ensemble(models: Sequence[InferenceModel], task: str = "prediction") -> None:
    """Check in advance that one or more models are classifiers of the same classes.

    Args:
        models: at least one.
        task: their purpose, for messages.

    Raises:
        UserError: a model is not a classifier, or differs from the first.
    """
    for model in models:
        model.need("classifier", task, "train one with `dnabert2 finetune`")
    first = models[0]
    for model in models[1:]:
        for what, ours, theirs in (
            ("the task", first.head.task, model.head.task),
            ("the classes", ", ".join(first.labels), ", ".join(model.labels)),
            ("the limit of tokens", first.head.max_tokens, model.head.max_tokens),
        ):
            if ours != theirs:
                raise UserError(
                    f"{model.path} does not predict what {first.path} does: {what} {theirs}, there {ours}; an ensemble is "
                    "of models that were trained on the same table"
                )


def _predict(
    model: InferenceModel,
    sequences: Sequences,
    max_tokens: int | None,
    long: LongSequences,
    overlap: float,
    views: int,
    batch_tokens: int | None,
    few_shapes: bool,
    title: str | None,
) -> Predictions:
    """Predictions of one model."""
    training_data = model.provenance.get("training_data")
    _check_pairs(model, sequences, training_data)
    max_tokens = model.head.max_tokens if max_tokens is None else max_tokens
    readings = [
        encode_sequences(view, tokenizer, max_tokens, long=long, overlap=overlap, token_types=model.head.token_types)
        for view, tokenizer in views_of(sequences, model.tokenizer, views)
    ]
    rows = EncodedRows(
        [ids for reading in readings for ids in reading.input_ids],
        np.concatenate([reading.first_tokens for reading in readings]),
    )
    batches = pack(rows, batch_tokens or default_batch_tokens(), few_shapes=few_shapes)
    outputs = model.predictor.class_outputs(batches, title)
    # The mean over a sequence's windows in each view, then over views.
    windows = np.concatenate([reading.windows for reading in readings])
    means = np.add.reduceat(outputs, np.cumsum(windows) - windows, axis=0, dtype=np.float64) / windows[:, None]
    means = means.reshape(len(readings), len(sequences), -1).mean(0).astype(np.float32)
    given = readings[0]
    return Predictions(
        names=sequences.names,
        classes=model.labels,
        outputs=means,
        windows=given.windows,
        cut_bases=given.cut_bases,
        task=model.head.task,
        max_tokens=max_tokens,
        notes=notes_on(sequences, given, training_data),
        input_columns=sequences.columns,
        training_data=training_data,
    )


def _check_pairs(model: InferenceModel, sequences: Sequences, training_data: Mapping[str, Any] | None) -> None:
    pairs = sequences.pairs is not None
    if training_data is not None and training_data["pairs"] != pairs:
        given, trained = ("pairs", "single sequences") if pairs else ("single sequences", "pairs")
        raise UserError(
            f"{sequences.source}: these are {given}, but {model.path} was trained on {trained}; give it {trained}"
        )
