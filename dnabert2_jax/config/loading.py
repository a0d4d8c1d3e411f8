"""A run from a TOML file and overrides, validated, with errors that name the nearest valid key."""

import json
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.storage.paths import as_path

Run = TypeVar("Run")

Finetuning = FinetuneRun | PerBaseRun
"""The runs of ``dnabert2 finetune``."""

COMMANDS = ("pretrain", "finetune")


def load_run(kind: type[Run], config: str | Path | None, overrides: Sequence[str] = (), *, option: str = "--set") -> Run:
    """Read a run from a TOML file and ``a.b=c`` overrides, which win.

    Paths are relative to the current directory.

    Args:
        kind: ``PretrainRun``, ``FinetuneRun`` or ``PerBaseRun``.
        config: the file; None for the defaults and the overrides alone.
        overrides: ``section.key=value``; the value is read as TOML, or as text if it is not TOML.
        option: of the command line that they come from, for error messages.

    Raises:
        UserError: the file cannot be read, or a key or value is not accepted.
    """
    content = read_content(config, overrides)
    given = {override.partition("=")[0].strip() for override in overrides}
    return parse_run(kind, content, str(config or option), given, option=option)


def load_finetuning(config: str | Path | None, overrides: Sequence[str] = (), *, option: str = "--set") -> Finetuning:
    """A run of ``dnabert2 finetune`` from a TOML file and overrides, see :func:`load_run`.

    Raises:
        UserError: the file cannot be read, or a key or value is not accepted.
    """
    kind: type[Finetuning] = kind_of_finetuning(read_content(config, overrides))
    return load_run(kind, config, overrides, option=option)


def kind_of_run(command: str, content: Mapping[str, Any]) -> type[PretrainRun] | type[FinetuneRun] | type[PerBaseRun]:
    """The kind of a run.

    Args:
        command: one of ``COMMANDS``.
        content: the run as nested dicts.
    """
    return PretrainRun if command == "pretrain" else kind_of_finetuning(content)


def kind_of_finetuning(content: Mapping[str, Any]) -> type[FinetuneRun] | type[PerBaseRun]:
    """The kind of a run of ``dnabert2 finetune``: ``data.task`` says whether labels are at every base."""
    data = content.get("data")
    return PerBaseRun if isinstance(data, Mapping) and data.get("task") == "per_base" else FinetuneRun


def read_content(config: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a TOML file and overrides say, as nested dicts; not validated yet.

    Raises:
        UserError: the file cannot be read, or an override is not of the form ``a.b=c``.
    """
    content = read_toml(as_path(config)) if config else {}
    for override in overrides:
        _apply(content, override)
    return content


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not TOML ({error}); fix that line (strings need quotes)") from error


def parse_run(
    kind: type[Run], content: dict[str, Any], source: str, overridden: Collection[str] | None = (), *, option: str = "--set"
) -> Run:
    """Validate what was given as nested dicts.

    Args:
        kind: a dataclass with a ``command``, such as ``PretrainRun`` or ``FinetuneRun``.
        content: the run.
        source: where it comes from, for error messages.
        overridden: keys that come from ``option`` instead; None for a command without ``--set``.
        option: of the command line.

    Raises:
        UserError: names every key or value that is not accepted.
    """
    wanted = _command(kind)
    if content.get("command", wanted) != wanted:
        raise UserError(f"{source}: this is a run of `dnabert2 {content['command']}`, not of `dnabert2 {wanted}`")
    content = _with_section_defaults(kind, content)
    try:
        run = TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        problems = _first_of_each_key(error.errors())
        if overridden and all(any(f"{given}.".startswith(f"{key}.") for given in overridden) for key in problems):
            source = option
        explained = [_explain(kind, problem, settable=overridden is not None) for problem in problems.values()]
        raise UserError(f"{source}: {'; '.join(explained)}") from None
    _refuse_booleans_for_numbers(source, content, run_to_dict(run))
    return run


def run_to_dict(run: Any) -> dict[str, Any]:
    """The effective run as JSON-ready nested dicts; :func:`parse_run` reads it back."""
    content: dict[str, Any] = TypeAdapter(type(run)).dump_python(run, mode="json")
    return content


def toml_value(value: Any) -> str:
    """A value as TOML: JSON's strings, numbers, booleans and lists are TOML's; its objects are not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_value(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def to_toml(content: dict[str, Any]) -> str:
    """A run of :func:`run_to_dict` as TOML; None becomes a missing key, since TOML has no null."""
    lines = [f"{key} = {toml_value(value)}" for key, value in content.items() if not isinstance(value, dict)]
    for name, section in content.items():
        if isinstance(section, dict):
            values = [f"{key} = {toml_value(value)}" for key, value in section.items() if value is not None]
            lines += ["", f"[{name}]", *values]
    return "\n".join(lines) + "\n"


def default_settings(kind: type[Any]) -> dict[str, Any]:
    """The defaults of a run's settings, in the form of :func:`run_to_dict`, without the required ones."""
    defaults: dict[str, Any] = {}
    for name, field in kind.__pydantic_fields__.items():
        section: Any = field.annotation
        if is_dataclass(field.default):
            defaults[name] = run_to_dict(field.default)
        elif is_dataclass(section):
            defaults[name] = default_settings(section)  # type: ignore[arg-type]
        elif not field.is_required():
            defaults[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return defaults


def _command(kind: Any) -> str:
    return next(str(field.default) for field in fields(kind) if field.name == "command")


def _with_section_defaults(kind: type[Any], content: dict[str, Any]) -> dict[str, Any]:
    """Complete partly given sections from the run's own defaults, which may differ from those of the section's class.

    A section that is missing and has no default becomes an empty one, so that errors name its keys.
    """
    completed = dict(content)
    for field in fields(kind):
        if is_dataclass(field.default):
            given = completed.get(field.name)
            if isinstance(given, dict):
                completed[field.name] = {**asdict(field.default), **given}  # type: ignore[arg-type]
        elif is_dataclass(get_type_hints(kind)[field.name]):
            completed.setdefault(field.name, {})
    return completed


def _refuse_booleans_for_numbers(source: str, given: Any, accepted: Any, path: str = "") -> None:
    """Pydantic takes ``true`` for 1, but ``steps = true`` means something else.

    Its strict integers would refuse this too, and with it ``steps = 1e5``, which TOML reads as a float.
    """
    if isinstance(given, dict):
        for key, value in given.items():
            _refuse_booleans_for_numbers(source, value, accepted[key], f"{path}.{key}".lstrip("."))
    elif isinstance(given, bool) and not isinstance(accepted, bool):
        raise UserError(f"{source}: {path}: a number is needed, found {str(given).lower()}")


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: accepted is section.key=value, as in --set optimizer.learning_rate=1e-4")
    value: Any = text
    with suppress(tomllib.TOMLDecodeError):
        document = tomllib.loads(f"value = {text}")
        if document.keys() == {"value"}:  # a line break may have begun another key
            value = document["value"]
    *sections, last = key.strip().split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
    content[last] = value


def _first_of_each_key(problems: Iterable[Any]) -> dict[str, Any]:
    """The first error of each section and key; a wrong item also makes its list too short, which is not reported."""
    first: dict[str, Any] = {}
    for problem in problems:
        *sections, last = problem["loc"] or ("",)
        first.setdefault(".".join(map(str, sections if isinstance(last, int) else (*sections, last))), problem)
    return first


def _explain(kind: type[Any], problem: Any, *, settable: bool) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path) or _command(kind)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        accepted = [field.name for field in fields(_section(kind, path[:-1]))]
        hint = _elsewhere(kind, path[-1]) or nearest(path[-1], accepted)
        return f"unknown key {name}{hint}; accepted are {', '.join(accepted)}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{name} is missing; add it to the file" + (f" or give --set {name}=..." if settable else "")
    if problem["type"] == "tuple_type":
        return f'{name}: a list is needed, found {problem["input"]!r}; write {name}=["{problem["input"]}"]'
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + ("" if isinstance(problem["input"], dict) else f", found {problem['input']!r}")


def _elsewhere(kind: type[Any], key: str) -> str:
    """A hint if the key belongs to another section."""
    sections = {name: part for name, part in get_type_hints(kind).items() if is_dataclass(part)}
    places = [f"{name}.{key}" for name, part in sections.items() if key in {field.name for field in fields(part)}]
    return f" (did you mean {' or '.join(map(repr, places))}?)" if places else ""


def _section(kind: type[Any], path: Sequence[str]) -> type[Any]:
    for part in path:
        kind = get_args(kind)[0] if part.isdigit() else get_type_hints(kind)[part]
    return kind
