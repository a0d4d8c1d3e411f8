"""A self-contained HTML page: what is on it, as plain values, and its rendering by the templates beside this file.

Nothing is loaded from elsewhere: no script, no font, no picture and no style.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dnabert2_jax.storage.atomic import write_bytes

Row = Sequence[str]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; columns after the first ``text_columns`` hold numbers.

    Raises:
        ValueError: a row has another number of cells than the header.
    """

    header: Row
    rows: Sequence[Row]
    text_columns: int = 1

    def __post_init__(self) -> None:
        if odd := next((row for row in self.rows if len(row) != len(self.header)), None):
            raise ValueError(f"{len(odd)} cells below a header of {len(self.header)}: {odd}")

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, str]], text_columns: int = 1) -> "Table":
        """A table of at least one record, each with the same keys, which are the header."""
        return cls(tuple(records[0]), [tuple(record.values()) for record in records], text_columns)


@dataclass(frozen=True)
class Settings:
    """Names and values."""

    pairs: Sequence[tuple[str, str]]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Settings":
        """What made some results: the model, and the settings that were given."""
        settings = {"model": record["model"], **record["settings"], "model_sha256": record["model_sha256"][:12]}
        given = {name: value for name, value in settings.items() if value not in (None, [], "")}
        return cls([(n, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for n, v in given.items()])


@dataclass(frozen=True)
class SettingsGroups:
    """Settings by section name, in columns."""

    groups: Sequence[tuple[str, Settings]]


@dataclass(frozen=True)
class Command:
    """A command to copy, and what it is for."""

    explanation: str
    line: str


@dataclass(frozen=True)
class Picture:
    """One picture as two PNG files; the reader's color scheme selects one."""

    light: bytes
    dark: bytes
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    pictures: Sequence[Picture]


Block = Text | Heading | Table | Settings | SettingsGroups | Command | Pictures


@dataclass(frozen=True)
class Section:
    """A titled part of the page.

    Attributes:
        anchor: its id, for links.
        title: heading.
        blocks: what is in it, in order.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """The whole document; every text is plain and is escaped when rendered.

    Attributes:
        title: heading.
        subtitle: the line below it.
        sections: in order.
        figures: (value, description) of the few numbers that matter most.
        notes: what a reader must know before trusting them.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    figures: Sequence[tuple[str, str]] = ()
    notes: Iterable[str] = ()

    def html(self) -> str:
        """The document."""
        environment = Environment(
            loader=PackageLoader("dnabert2_jax.reports"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=StrictUndefined,
        )
        environment.filters["kind"] = lambda block: type(block).__name__
        environment.filters["data_url"] = lambda data: f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        return environment.get_template("page.html").render(page=self)


def write_page(file: Path, page: Page) -> Path:
    """Write a page atomically; returns ``file``.

    Raises:
        UserError: there is no room, or the directory is not writable.
    """
    return write_bytes(file, page.html().encode())
