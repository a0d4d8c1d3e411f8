"""The meaning of a table's label column: a class, any number of labels, or a measurement.

============ ========================= =====================================================================
task         a row's label             for example
============ ========================= =====================================================================
single_label its class                 ``promoter``, or ``1``
multi_label  names joined by ``;``     ``H3K4me3;H3K27ac``, or ``0;3``; ``-`` for none
regression   a number                  ``-0.25``
============ ========================= =====================================================================

The training table determines the labels; the other tables are read accordingly.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import HeadConfig, TaskKind
from dnabert2_jax.data.bad_records import BadRecords
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.errors import UserError, WrongTaskError, listed, nearest

SEPARATOR, NONE = ";", "-"
"""The separator between the labels of a row, and the symbol for none."""

_MOST_LISTED = 20
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
_CLASS_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")


class Target(ABC):
    """What a head is trained to predict.

    Attributes:
        names: names of the head's C outputs.
    """

    names: tuple[str, ...]

    def __len__(self) -> int:
        """C."""
        return len(self.names)

    @property
    @abstractmethod
    def head(self) -> HeadConfig:
        """The head that predicts it."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What is to be predicted, for messages."""


class Labels(Target):
    """The meaning of a training table's label column; the head pools a sequence as the original does."""

    @abstractmethod
    def encode(self, table: Table) -> NDArray[Any]:
        """A table's labels in batch format; see :class:`~dnabert2_jax.types.ClassificationBatch`.

        Raises:
            UserError: a label is not in the training table.
        """

    def counts(self, table: Table) -> dict[str, int]:
        """Number of a table's rows with each label; empty for measurements."""
        return {}


@dataclass(frozen=True)
class LabelSet(Labels):
    """The classes of a task; class number c is called ``names[c]``.

    Attributes:
        names: labels as tables write them.
    """

    names: tuple[str, ...]

    @classmethod
    def from_table(cls, table: Table) -> "LabelSet":
        """The classes of a training table: 0, 1, ... C-1 in that order, or names in alphabetical order.

        Raises:
            UserError: there is only one class, numbers have a gap or are mixed with names, or numbers are not integers.
        """
        first_row: dict[str, int] = {}
        for row, label in enumerate(table.labels):
            first_row.setdefault(label, row)
        for label, row in first_row.items():
            if _is_measurement(label):
                raise WrongTaskError(
                    f"{table.where(row)}: label {label!r} is a number but not a class; accepted are the integers "
                    "0, 1, 2, ... or names; set data.task=regression to predict measurements"
                )
        if len(first_row) == 1:
            raise UserError(
                f"{table.path}: all {len(table)} rows have the label {table.labels[0]!r}; a classifier needs rows of at "
                "least two classes"
            )
        numbers = [label for label in first_row if _CLASS_NUMBER.fullmatch(label)]
        if not numbers:
            return cls(tuple(sorted(first_row)))
        if words := [label for label in first_row if label not in numbers]:
            odd, usual = (words[0], numbers[0]) if len(words) <= len(numbers) else (numbers[0], words[0])
            raise UserError(
                f"{table.where(first_row[odd])}: label {odd!r} is mixed with labels such as {usual!r} "
                f"(line {table.lines[first_row[usual]]}); use integers only or names only"
            )
        numbers.sort(key=int)
        for expected, label in enumerate(numbers):
            if int(label) != expected:
                raise UserError(
                    f"{table.where(first_row[label])}: label {label} without a label {expected}; "
                    f"{len(numbers)} classes are numbered 0 to {len(numbers) - 1}; found {listed(numbers, _MOST_LISTED)}; "
                    "renumber them, or use names instead of numbers"
                )
        return cls(tuple(numbers))

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig()

    @property
    def what(self) -> str:
        """The number of classes, and their names."""
        return f"{len(self)} classes: {listed(self.names, _MOST_LISTED)}"

    def counts(self, table: Table) -> dict[str, int]:
        """Number of rows of each class, in the order of the classes."""
        return {name: table.labels.count(name) for name in self.names}

    def encode(self, table: Table) -> NDArray[np.int32]:
        """Class numbers of a table's rows, shape [rows].

        Raises:
            UserError: a label is not among the classes.
        """
        number = {name: c for c, name in enumerate(self.names)}
        _refuse_unknown(table, ((row, label) for row, label in enumerate(table.labels) if label not in number), self.names)
        return np.array([number[label] for label in table.labels], np.int32)


@dataclass(frozen=True)
class MultiLabelSet(Labels):
    """The labels of a task whose rows may have several; label number c is called ``names[c]``.

    Attributes:
        names: labels as tables write them, separated by ``;`` within a row.
    """

    names: tuple[str, ...]

    @classmethod
    def from_table(cls, table: Table) -> "MultiLabelSet":
        """The labels of a training table: integers in numerical order, or names in alphabetical order.

        Raises:
            UserError: a label is empty, repeated within a row or surrounded by white space; or there is only one label.
        """
        found = {name for row in range(len(table)) for name in _names_of(table, row)}
        if len(found) < 2:
            raise UserError(
                f"{table.path}: the rows have {f'only the label {min(found)!r}' if found else 'no labels at all'}; write "
                f"several labels per row with {SEPARATOR!r} between them, as in a;b, and {NONE!r} for none; for one class "
                "per row set data.task=single_label"
            )
        integers = all(_CLASS_NUMBER.fullmatch(name) for name in found)
        return cls(tuple(sorted(found, key=(lambda name: (int(name), name)) if integers else None)))

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig(task="multi_label")

    @property
    def what(self) -> str:
        """The number of labels, and their names."""
        return f"{len(self)} labels, any number per row: {listed(self.names, _MOST_LISTED)}"

    def counts(self, table: Table) -> dict[str, int]:
        """Number of rows with each label."""
        return dict(zip(self.names, self.encode(table).astype(int).sum(axis=0).tolist(), strict=True))

    def encode(self, table: Table) -> NDArray[np.float32]:
        """1 where a row has a label, else 0, shape [rows, C].

        Raises:
            UserError: a label is not among them.
        """
        number = {name: c for c, name in enumerate(self.names)}
        names = [_names_of(table, row) for row in range(len(table))]
        unknown = ((row, name) for row, own in enumerate(names) for name in own if name not in number)
        _refuse_unknown(table, unknown, self.names)
        encoded = np.zeros((len(table), len(self)), np.float32)
        for row, own in enumerate(names):
            encoded[row, [number[name] for name in own]] = 1
        return encoded

    def write(self, has: NDArray[np.bool_]) -> str:
        """The labels of one row [C] as tables write them."""
        return SEPARATOR.join(name for name, one in zip(self.names, has, strict=True) if one) or NONE


@dataclass(frozen=True)
class Measurements(Labels):
    """Measurements in their own unit; a head predicts how many standard deviations a measurement is from the mean.

    Attributes:
        mean: mean of the training table.
        deviation: the training table's (population) standard deviation.
        names: the name of the single output.
    """

    mean: float
    deviation: float
    names: tuple[str, ...] = ("value",)

    @classmethod
    def from_table(cls, table: Table) -> "Measurements":
        """Mean and standard deviation of a training table.

        Raises:
            UserError: a label is not a number, or the labels are all the same or indistinguishable in float32.
        """
        values = _numbers(table)
        mean, deviation = float(values.mean()), float(values.std())
        if not deviation > 0:
            raise UserError(
                f"{table.path}: all {len(table)} rows have the label {table.labels[0]!r}; regression needs different values"
            )
        if not math.isfinite(deviation) or deviation < 1e-5 * abs(mean):
            raise UserError(
                f"{table.path}: labels with mean {mean:g} and standard deviation {deviation:g} are beyond the seven digits "
                "of float32; subtract a constant, or choose another unit"
            )
        return cls(mean, deviation)

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig(task="regression", mean=self.mean, deviation=self.deviation)

    @property
    def what(self) -> str:
        """How an output of the network is converted to a measurement."""
        return f"measurements, {self.mean:g} + {self.deviation:g} x output"

    def encode(self, table: Table) -> NDArray[np.float32]:
        """The measurements, unscaled, shape [rows].

        Raises:
            UserError: a label is not a number.
        """
        return _numbers(table).astype(np.float32)


def with_signs_spelled(label: str) -> str:
    """A label with ``+`` or ``-`` at its end as a word, such as ``coding_plus``, for names that may hold no signs."""
    words = {"+": "_plus", "-": "_minus"}
    return label[:-1] + words[label[-1]] if label[-1:] in words else label


def learn_labels(task: TaskKind, train: Table) -> Labels:
    """The meaning of the label column in a task's training table.

    Raises:
        UserError: the labels are not valid for the task.
    """
    if task == "single_label":
        return LabelSet.from_table(train)
    return MultiLabelSet.from_table(train) if task == "multi_label" else Measurements.from_table(train)


def saved_labels(head: HeadConfig, names: tuple[str, ...]) -> Labels:
    """The labels that a saved classifier was trained on."""
    if head.task == "single_label":
        return LabelSet(names)
    return MultiLabelSet(names) if head.task == "multi_label" else Measurements(head.mean, head.deviation)


def _names_of(table: Table, row: int) -> list[str]:
    """The distinct labels of a row."""
    label = table.labels[row]
    names = [] if label == NONE else label.split(SEPARATOR)
    for name in names:
        if not name or name != name.strip() or name == NONE or names.count(name) > 1:
            raise UserError(
                f"{table.where(row)}: label {label!r}: {name!r} is empty, surrounded by white space or repeated; "
                f"accepted are different names with {SEPARATOR!r} between them, or {NONE!r} for none"
            )
    return names


def _numbers(table: Table) -> NDArray[np.float64]:
    values, bad = np.empty(len(table)), BadRecords(table.source, None)
    for row, label in enumerate(table.labels):
        try:
            values[row] = float(label.replace("_", "no digit"))  # Python would ignore "_"
        except ValueError:
            values[row] = math.nan
        if not abs(values[row]) < np.finfo(np.float32).max:
            remedy = "correct it or remove the row, or set data.task=single_label for classes"
            if _DECIMAL_COMMA.fullmatch(label):  # which could also separate thousands, so we do not guess
                remedy = f"write decimals with a point, as in {label.replace(',', '.')}"
            bad.add(
                UserError(
                    f"{table.where(row)}: label {label!r} is not a number that float32 can hold; a regression predicts "
                    f"numbers: {remedy}"
                )
            )
    bad.finish(len(table))
    return values


def _refuse_unknown(table: Table, unknown: Iterable[tuple[int, str]], names: tuple[str, ...]) -> None:
    bad = BadRecords(table.source, None)
    for row, label in unknown:
        bad.add(
            UserError(
                f"{table.where(row)}: label {label!r} is not a class of the training table ({listed(names, _MOST_LISTED)})"
                f"{nearest(label, names)}; correct it, remove the row, or add training rows of that class"
            )
        )
    bad.finish(len(table))


def _is_measurement(label: str) -> bool:
    """Whether a label is a number, but neither a class number nor a code such as 007."""
    try:
        float(label)
    except ValueError:
        return False
    return not (_CLASS_NUMBER.fullmatch(label) or label.isdecimal())
