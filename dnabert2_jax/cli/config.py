"""``dnabert2 config show`` and ``config diff``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.options import Set, path
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.errors import UserError

config = group("config", "Show and compare the settings of runs.")


@config.command("show", epilog="Example: dnabert2 config show configs/finetune.toml --set optimizer.learning_rate=1e-4")
def config_show(
    file: Annotated[Path, Argument(parser=path, help="A run's TOML file, or the workdir of a run.")],
    set_: Set = None,
    command: Annotated[str | None, Option(help="pretrain or finetune, if the file does not say.")] = None,
) -> None:
    """Print the effective run as TOML.

    Each line says where its value came from: the default, the file or the run, or --set.
    """
    from dnabert2_jax.config.loading import toml_value

    effective, given = _read_run(file, set_ or (), command)
    overridden = {override.partition("=")[0].strip() for override in set_ or ()}
    given_by = "run" if file.is_dir() else "file"
    section = ""
    for key, value in effective.items():
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            print(f"\n[{section}]")
        source = "--set" if _covers(overridden, key) else given_by if key in given else "default"
        print(f"{f'{name} = {toml_value(value)}' if value is not None else f'# {name} is not set':44}  # {source}")


@config.command("diff", epilog="Example: dnabert2 config diff runs/first runs/second")
def config_diff(
    first: Annotated[Path, Argument(parser=path, help="A run's TOML file, or the workdir of a run.")],
    second: Annotated[Path, Argument(parser=path, help="Another one.")],
) -> None:
    """Print the settings that differ between two runs.

    Defaults are compared too; the exit code is 0 either way.
    """
    (before, _), (after, _) = (_read_run(path, (), None) for path in (first, second))
    differing = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    if not differing:
        print(f"{first} and {second} have the same settings")
        return
    sides = {str(first): before, str(second): after}
    print_table([{"key": key, **{name: _shown(side.get(key)) for name, side in sides.items()}} for key in differing])


def _read_run(path: Path, overrides: Sequence[str], command: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(effective settings, those that the file gives), flat: ``section.key`` to value.

    A workdir records every setting; given are those that differ from their defaults.
    """
    from dnabert2_jax.config.loading import COMMANDS, default_settings, kind_of_run, load_run, read_content, run_to_dict
    from dnabert2_jax.training.workdir import flat_settings, read_run

    if path.is_dir():
        if overrides:
            raise UserError(f"{path} is the workdir of a run, whose settings are fixed; use --set with a TOML file")
        run = read_run(path)
        effective, defaults = flat_settings(run_to_dict(run)), flat_settings(default_settings(type(run)))
        return effective, {key: value for key, value in effective.items() if key not in defaults or value != defaults[key]}
    content = read_content(path)
    wanted = command or content.get("command")
    if wanted not in COMMANDS:
        found = "no command is named in it" if wanted is None else f"command {wanted!r} is unknown"
        raise UserError(f'{path}: {found}; accepted are pretrain and finetune: add `command = "..."` or give --command')
    kind: type[Any] = kind_of_run(wanted, read_content(path, overrides))
    return flat_settings(run_to_dict(load_run(kind, path, overrides))), flat_settings(content)


def _covers(keys: set[str], key: str) -> bool:
    """Whether an override set this key or a section that contains it."""
    return any(key == given or key.startswith(f"{given}.") for given in keys)


def _shown(value: Any) -> str:
    from dnabert2_jax.config.loading import toml_value

    return "not set" if value is None else toml_value(value)
