"""Finding the benchmark's tables on disk, under the names in use, and checking them."""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnabert2_jax.data.reading import count_rows
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.gue.catalog import SPLITS, Task, benchmark_order, catalog, identify
from dnabert2_jax.training.workdir import RUN_FILE

_TABLE = re.compile(r"(train|dev|val|valid|validation|eval|test)\.(csv|tsv)(\.gz)?", re.IGNORECASE)
_DEV_NAMES = {"dev", "val", "valid", "validation", "eval"}
_DEEPEST = 4


@dataclass(frozen=True)
class FoundTask:
    """A data set on disk.

    Attributes:
        task: which one it is.
        directory: where it is.
        tables: the files of train, dev and test.
        remarks: how its row counts differ from the published ones.
    """

    task: Task
    directory: Path
    tables: dict[str, Path]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """The data sets in a directory.

    Attributes:
        found: complete data sets, in the benchmark's order, others last.
        problems: why a directory that looks like a data set is not used, by name.
        missing: requested data sets of GUE that are not there.
    """

    found: list[FoundTask]
    problems: dict[str, str]
    missing: list[str]


def discover(data: Path, patterns: Sequence[str] = ()) -> Discovery:
    """Find every directory with the tables of a data set.

    Args:
        data: any directory at or above the data sets, at most four levels up.
        patterns: names or globs such as ``tf/*``, case-insensitive; none for all data sets.

    Raises:
        UserError: not a directory, nothing found, or a pattern that matches nothing.
    """
    if not data.is_dir():
        raise UserError(f"{data} is not a directory; give the one with the data sets (GUE/EMP/H3/train.csv and so on)")
    places: dict[str, list[tuple[Path, dict[str, list[Path]]]]] = {}
    tasks: dict[str, Task] = {}
    for directory, tables in _table_directories(data):
        task = identify(directory) or Task(directory.relative_to(data).as_posix().replace(" ", "_"))
        if task.name == ".":
            task = Task(directory.resolve().name.replace(" ", "_"))
        tasks[task.name] = task
        places.setdefault(task.name, []).append((directory, tables))
    if not places:
        raise UserError(
            f"{data}: no directory with train.csv, dev.csv and test.csv at most {_DEEPEST} levels below; name another one"
        )
    for pattern in patterns:
        if not any(_fits(name, [pattern]) for name in {*places, *catalog()}):
            hint = nearest(pattern, places)
            raise UserError(f"--tasks {pattern} matches none of {', '.join(sorted(places))}{hint}")

    found, problems = [], {}
    for name in sorted(places, key=benchmark_order):
        if not _fits(name, patterns):
            continue
        if problem := _problem(places[name]):
            problems[name] = problem
            continue
        [(directory, tables)] = places[name]
        files = {split: tables[split][0] for split in SPLITS}
        found.append(FoundTask(tasks[name], directory, files, tuple(_size_remarks(tasks[name], files))))
    wanted = [task for task in catalog().values() if task.suite == "GUE" or patterns]
    missing = [task.name for task in wanted if task.name not in places and _fits(task.name, patterns)]
    return Discovery(found, problems, missing)


def _table_directories(data: Path) -> Iterator[tuple[Path, dict[str, list[Path]]]]:
    """Directories with files named like tables, and these files by split."""
    for root, folders, files in os.walk(data, followlinks=True):
        directory = Path(root)
        if RUN_FILE in files:  # a run or a benchmark with tables of its own, not a data set
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(directory.relative_to(data).parts) == _DEEPEST:
            folders.clear()
        tables: dict[str, list[Path]] = {}
        for name in sorted(files):
            if match := _TABLE.fullmatch(name):
                split = match[1].lower()
                tables.setdefault("dev" if split in _DEV_NAMES else split, []).append(directory / name)
        if tables:
            yield directory, tables


def _problem(places: list[tuple[Path, dict[str, list[Path]]]]) -> str | None:
    if len(places) > 1:
        return (
            f"found twice: {' and '.join(str(place) for place, _ in places)}; keep one, or give --data a narrower directory"
        )
    [(directory, tables)] = places
    if absent := [split for split in SPLITS if split not in tables]:
        here = ", ".join(file.name for files in tables.values() for file in files)
        return (
            f"{directory} has no table named {' or '.join(absent)}, only {here}; accepted are train, dev and test as .csv "
            "or .tsv"
        )
    if doubled := next((files for files in tables.values() if len(files) > 1), None):
        return f"{directory} has {' and '.join(file.name for file in doubled)} for one table; keep one of them"
    return None


def _size_remarks(task: Task, tables: dict[str, Path]) -> Iterator[str]:
    for split, published in task.rows.items():
        try:
            rows = count_rows(tables[split])
        except UserError:
            continue  # the run reads it again and reports what is wrong
        if rows != published:
            yield f"{tables[split].name} has {rows:,} rows, {published:,} are published"


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
