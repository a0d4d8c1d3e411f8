"""What the label column of a table stands for: a class, any number of labels, or a measurement.

============ ========================= =====================================================================
task         a row's label             for example
============ ========================= =====================================================================
single_label its class                 ``promoter``, or ``1``
multi_label  names joined by ``;``     ``H3K4me3;H3K27ac``, or ``0;3``; ``-`` for a row that has none of them
regression   a number                  ``-0.25``
============ ========================= =====================================================================

Everything is learned from the training table; the others are read by what it has taught.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.config.model import HeadConfig, TaskKind
from dnabert2_jax.errors import UserError, WrongTaskError, nearest

if TYPE_CHECKING:
    from dnabert2_jax.data.tables import Table

SEPARATOR, NONE = ";", "-"
"""Between the labels of a row, and in place of them where it has none."""

_CLASS_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")


class Labels(Protocol):
    """What a training table's label column stands for."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the outputs of a head are called, C of them."""
        ...

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them, with the original's way to read a sequence."""
        ...

    @property
    def what(self) -> str:
        """What there is to predict, for a message."""
        ...

    def __len__(self) -> int:
        """C."""
        ...

    def encode(self, table: "Table") -> NDArray[Any]:
        """A table's labels as a batch holds them: see :class:`~dnabert2_jax.types.ClassificationBatch`.

        Raises:
            UserError: one that the training table has not taught.
        """
        ...

    def counts(self, table: "Table") -> dict[str, int]:
        """Rows of a table that have each label; nothing for measurements."""
        ...


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task; class number c is called ``names[c]``.

    Attributes:
        names: labels as tables write them.
    """

    names: tuple[str, ...]

    @classmethod
    def from_table(cls, table: "Table") -> "LabelSet":
        """The classes of a training table: 0, 1, ... C-1 in that order, or names in alphabetical order.

        Raises:
            UserError: one class only, numbers with a gap, numbers mixed with names, or numbers that are not integers.
        """
        first_row: dict[str, int] = {}
        for row, label in enumerate(table.labels):
            first_row.setdefault(label, row)
        for label, row in first_row.items():
            if _is_measurement(label):
                raise WrongTaskError(
                    f"{table.where(row)}: label {label!r} is a number but not a class; accepted are the integers "
                    "0, 1, 2, ... or names; write 1 for 1.0, or set data.task=regression to predict measurements"
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
                f"{table.where(first_row[odd])}: label {odd!r} stands beside labels such as {usual!r} "
                f"(line {table.lines[first_row[usual]]}); use integers only or names only"
            )
        numbers.sort(key=int)
        for expected, label in enumerate(numbers):
            if int(label) != expected:
                raise UserError(
                    f"{table.where(first_row[label])}: label {label} without a label {expected}; "
                    f"{len(numbers)} classes are numbered 0 to {len(numbers) - 1}; found {_listed(numbers)}; "
                    "renumber them, or use names instead of numbers"
                )
        return cls(tuple(numbers))

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig()

    @property
    def what(self) -> str:
        """How many classes, and which."""
        return f"{len(self)} classes: {_listed(self.names)}"

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    def counts(self, table: "Table") -> dict[str, int]:
        """Rows of each class, in the order of the classes."""
        return {name: table.labels.count(name) for name in self.names}

    def encode(self, table: "Table") -> NDArray[np.int32]:
        """Class numbers of a table's rows, shape [rows].

        Raises:
            UserError: a label that is not among the classes.
        """
        number = {name: c for c, name in enumerate(self.names)}
        for row, label in enumerate(table.labels):
            if label not in number:
                raise _unknown(table, row, label, self.names)
        return np.array([number[label] for label in table.labels], np.int32)


@dataclass(frozen=True)
class MultiLabelSet:
    """The labels of a task whose rows may have several; label number c is called ``names[c]``.

    Attributes:
        names: as tables write them, ``;`` between those of a row.
    """

    names: tuple[str, ...]

    @classmethod
    def from_table(cls, table: "Table") -> "MultiLabelSet":
        """The labels of a training table: integers in their order, or names in alphabetical order.

        Raises:
            UserError: a label that is empty, named twice in a row or surrounded by white space; or one label only.
        """
        found = {name for row in range(len(table)) for name in _names_of(table, row)}
        if len(found) < 2:
            raise UserError(
                f"{table.path}: the rows have {f'the label {min(found)!r} alone' if found else 'no label at all'}; several "
                f"labels a row are written with {SEPARATOR!r} between them, as in a;b, and {NONE!r} where a row has none; "
                "for one class a row set data.task=single_label"
            )
        integers = all(_CLASS_NUMBER.fullmatch(name) for name in found)
        return cls(tuple(sorted(found, key=(lambda name: (int(name), name)) if integers else None)))

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig(task="multi_label")

    @property
    def what(self) -> str:
        """How many labels, and which."""
        return f"{len(self)} labels, any number of them a row: {_listed(self.names)}"

    def __len__(self) -> int:
        """Number of labels."""
        return len(self.names)

    def counts(self, table: "Table") -> dict[str, int]:
        """Rows that have each label."""
        return dict(zip(self.names, self.encode(table).astype(int).sum(axis=0).tolist(), strict=True))

    def encode(self, table: "Table") -> NDArray[np.float32]:
        """1 where a row has a label, else 0, shape [rows, C].

        Raises:
            UserError: a label that is not among them.
        """
        number = {name: c for c, name in enumerate(self.names)}
        encoded = np.zeros((len(table), len(self)), np.float32)
        for row in range(len(table)):
            for name in _names_of(table, row):
                if name not in number:
                    raise _unknown(table, row, name, self.names)
                encoded[row, number[name]] = 1
        return encoded

    def write(self, has: NDArray[np.bool_]) -> str:
        """The labels of one row [C] as tables write them."""
        return SEPARATOR.join(name for name, one in zip(self.names, has, strict=True) if one) or NONE


@dataclass(frozen=True)
class Measurements:
    """Numbers in a unit of their own; a head predicts how many deviations one is from the mean.

    Attributes:
        mean: of the training table.
        deviation: the training table's standard deviation (n).
    """

    mean: float
    deviation: float

    @classmethod
    def from_table(cls, table: "Table") -> "Measurements":
        """Mean and deviation of a training table.

        Raises:
            UserError: a label that is not a number, all the same number, or numbers that float32 cannot tell apart.
        """
        values = _numbers(table)
        mean, deviation = float(values.mean()), float(values.std())
        if not deviation > 0:
            raise UserError(
                f"{table.path}: all {len(table)} rows have the label {table.labels[0]!r}; a regression needs different ones"
            )
        if not math.isfinite(deviation) or deviation < 1e-5 * abs(mean):
            raise UserError(
                f"{table.path}: labels with mean {mean:g} and standard deviation {deviation:g} are beyond the seven digits "
                "of float32; subtract a constant, or choose another unit"
            )
        return cls(mean, deviation)

    @property
    def names(self) -> tuple[str, ...]:
        """The one output's name."""
        return ("value",)

    @property
    def head(self) -> HeadConfig:
        """The head that predicts them."""
        return HeadConfig(task="regression", mean=self.mean, deviation=self.deviation)

    @property
    def what(self) -> str:
        """Which measurement an output of the network stands for."""
        return f"measurements, {self.mean:g} + {self.deviation:g} x output"

    def __len__(self) -> int:
        """One output."""
        return 1

    def counts(self, table: "Table") -> dict[str, int]:
        """Nothing: no two rows need have the same."""
        return {}

    def encode(self, table: "Table") -> NDArray[np.float32]:
        """The numbers as they are, shape [rows].

        Raises:
            UserError: a label that is not a number.
        """
        return _numbers(table).astype(np.float32)


def learn_labels(task: TaskKind, train: "Table") -> Labels:
    """What the training table of a task teaches.

    Raises:
        UserError: labels that the task cannot have.
    """
    if task == "single_label":
        return LabelSet.from_table(train)
    return MultiLabelSet.from_table(train) if task == "multi_label" else Measurements.from_table(train)


def saved_labels(head: HeadConfig, names: tuple[str, ...]) -> Labels:
    """The labels that a saved classifier was trained on."""
    if head.task == "single_label":
        return LabelSet(names)
    return MultiLabelSet(names) if head.task == "multi_label" else Measurements(head.mean, head.deviation)


def _names_of(table: "Table", row: int) -> list[str]:
    """The labels of a row, each once."""
    label = table.labels[row]
    names = [] if label == NONE else label.split(SEPARATOR)
    for name in names:
        if not name or name != name.strip() or name == NONE or names.count(name) > 1:
            raise UserError(
                f"{table.where(row)}: label {label!r}: {name!r} is empty, surrounded by white space or there twice; "
                f"accepted are different names with {SEPARATOR!r} between them, or {NONE!r} for none"
            )
    return names


def _numbers(table: "Table") -> NDArray[np.float64]:
    values = np.empty(len(table))
    for row, label in enumerate(table.labels):
        try:
            values[row] = float(label.replace("_", "no digit"))  # which Python would pass over
        except ValueError:
            values[row] = math.nan
        if not abs(values[row]) < np.finfo(np.float32).max:
            raise UserError(
                f"{table.where(row)}: label {label!r} is not a number that float32 can hold; a regression predicts numbers: "
                "correct it or remove the row, or set data.task=single_label for classes"
            )
    return values


def _unknown(table: "Table", row: int, label: str, names: tuple[str, ...]) -> UserError:
    return UserError(
        f"{table.where(row)}: label {label!r} is not a class of the training table ({_listed(names)})"
        f"{nearest(label, names)}; correct it, remove the row, or add training rows of that class"
    )


def _is_measurement(label: str) -> bool:
    """Whether a label is a number, yet neither a class number nor a code such as 007."""
    try:
        float(label)
    except ValueError:
        return False
    return not (_CLASS_NUMBER.fullmatch(label) or label.isdecimal())


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
