"""``dnabert2 merge``, ``adapters``, ``config``, ``doctor`` and ``report``."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.table import Table

from dnabert2_jax.cli.data import results
from dnabert2_jax.cli.train import Set
from dnabert2_jax.config.model import LoraTarget
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.progress import ProgressBar, remark

commands = typer.Typer()
adapters = typer.Typer(no_args_is_help=True, help="List adapters, and take one out of a model.")
config = typer.Typer(no_args_is_help=True, help="Show and compare the settings of runs.")

Base = Annotated[Path | None, typer.Option(help="The adapter's base, if it is not where the adapter says.")]


@commands.command(epilog="Example: dnabert2 merge runs/promoters/adapter --out runs/promoters_merged")
def merge(
    adapter: Annotated[Path, typer.Argument(help="Adapter directory.")],
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    base: Base = None,
) -> None:
    """Fold a LoRA adapter into its base: a model directory that needs neither of the two."""
    from dnabert2_jax.adapters import merged
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.model_directory import is_adapter_directory, load_adapter, load_model, save_model

    if adapter.is_dir() and not is_adapter_directory(adapter):
        raise UserError(f"{adapter} is not an adapter directory (it holds no adapter.json); name the one to merge")
    saved = save_model(out, merged(load_adapter(adapter, None if base is None else load_model(base))))
    remark(f"a {saved.kind} of {saved_labels(saved.head, saved.labels).what}")
    print(f"saved {out}")


@adapters.command("list", epilog="Example: dnabert2 adapters list runs")
def adapters_list(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Adapter directories, or what holds them.")],
) -> None:
    """List adapters: base, settings, classes, dev score and size; every file and the base's hash are checked."""
    from dnabert2_jax.adapters import find_adapters
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.metrics.tasks import metrics_for
    from dnabert2_jax.model_directory import load_adapter
    from dnabert2_jax.modeling.models import count_parameters

    problems = []
    for path in find_adapters(directories):
        print(path)
        try:
            adapter = load_adapter(path)
        except UserError as error:
            problems.append(str(error))
            print("  not usable")
            continue
        lora, dev = adapter.lora, adapter.provenance.get("metrics", {}).get("dev")
        labels = saved_labels(adapter.head, adapter.labels)
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"  base     {adapter.base.path}")
        print(f"  LoRA     rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}")
        print(f"  for      {labels.what}" + (f"; dev {metrics_for(labels).brief(dev)}" if dev else ""))
        print(f"  size     {count_parameters(adapter.params):,} parameters with the heads, {size / 1e6:,.2f} MB")
    if problems:
        raise UserError("; ".join(problems))


@adapters.command(
    "extract",
    epilog="Example: dnabert2 adapters extract runs/promoters/model --base runs/pretrain/model --out runs/promoters_adapter",
)
def adapters_extract(
    model: Annotated[Path, typer.Argument(help="Classifier directory, merged or fine-tuned in full.")],
    base: Annotated[Path, typer.Option(help="The model directory it was trained from.")],
    out: Annotated[Path, typer.Option(help="Adapter directory to write.")],
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 8,
    target: Annotated[
        list[str] | None, typer.Option(help="Projection to give one; may be given many times; all four by default.")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of the encoder's change that may be lost.")
    ] = 0.01,
) -> None:
    """Take an adapter out of a classifier: the low-rank part of what differs from its base, by singular values."""
    from dnabert2_jax.adapters import extract_adapter
    from dnabert2_jax.model_directory import load_model, save_adapter

    names = get_args(LoraTarget)
    for name in target or ():
        if name not in names:
            raise UserError(f"--target {name} is unknown; accepted are {', '.join(names)}{nearest(name, names)}")
    targets: tuple[LoraTarget, ...] = tuple(name for name in names if not target or name in target)
    trained, origin = load_model(model), load_model(base)
    with ProgressBar("singular values", len(targets)) as bar:
        adapter, loss = extract_adapter(trained, origin, rank=rank, targets=targets, max_loss=max_loss, progress=bar.advance)
    save_adapter(out, adapter)
    remark(f"rank {rank} on {', '.join(targets)} keeps all but {loss:.3%} of what changed in the encoder")
    print(f"saved {out}")


@config.command("show", epilog="Example: dnabert2 config show configs/finetune.toml --set optimizer.learning_rate=1e-4")
def config_show(
    file: Annotated[Path, typer.Argument(help="A run's TOML file, or the workdir of a run.")],
    set_: Set = None,
    command: Annotated[
        str | None, typer.Option(help="pretrain or finetune, for a file that does not say which command it is for.")
    ] = None,
) -> None:
    """Print the effective run as TOML, with where each value came from: the default, the file, or --set."""
    effective, given = _read_run(file, set_ or (), command)
    overridden = {override.partition("=")[0].strip() for override in set_ or ()}
    section = ""
    for key, value in effective.items():
        parent, _, name = key.rpartition(".")
        if parent != section:
            section = parent
            print(f"\n[{section}]")
        source = "--set" if _covers(overridden, key) else "file" if key in given else "default"
        print(f"{f'{name} = {_toml(value)}' if value is not None else f'# {name} is not set':44}  # {source}")


@config.command("diff", epilog="Example: dnabert2 config diff runs/first runs/second")
def config_diff(
    first: Annotated[Path, typer.Argument(help="A run's TOML file, or the workdir of a run.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Print the settings in which two runs differ, defaults included; exit code 0 either way."""
    (before, _), (after, _) = (_read_run(path, (), None) for path in (first, second))
    table = Table("key", str(first), str(second))
    differing = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    for key in differing:
        table.add_row(key, *(_toml(side[key]) if side.get(key) is not None else "not set" for side in (before, after)))
    if differing:
        results().print(table)
    else:
        print(f"{first} and {second} have the same settings")


@commands.command(epilog="Example: dnabert2 doctor --model runs/promoters/model")
def doctor(
    model: Annotated[Path | None, typer.Option(help="Model, adapter or Hugging Face directory to check.")] = None,
    base: Base = None,
) -> None:
    """Say what is installed, on which devices it runs and which attention backend serves; check a model directory."""
    from dnabert2_jax.doctor import TOKENS_ASKED, attention_choice, check_model, devices, versions

    print("versions   " + "  ".join(f"{name} {number}" for name, number in versions().items()))
    for line in devices():
        print(f"device     {line}")
    for tokens in TOKENS_ASKED:
        name, why = attention_choice(tokens)
        print(f"attention  {tokens:>5,} tokens: {name} ({why})")
    if model is None:
        if base is not None:
            raise UserError("--base belongs to an adapter; give its directory with --model")
        remark("give --model DIR to check a model directory as well")
        return
    for check, finding in check_model(model, base):
        print(f"model      {check}: {finding}")


@commands.command(epilog="Example: dnabert2 report runs/promoters --embedding-map")
def report(
    workdir: Annotated[Path, typer.Argument(help="The --workdir of a pretrain or finetune run, finished or not.")],
    embedding_map: Annotated[
        bool, typer.Option("--embedding-map", help="Embed up to 1,000 test rows with the fine-tuned model and draw a map.")
    ] = False,
    map_method: Annotated[
        Literal["auto", "pca", "umap"], typer.Option(help="auto is UMAP where umap-learn is installed, else PCA.")
    ] = "auto",
) -> None:
    """Write a run's report again: one HTML page, and its pictures as PNG files."""
    from dnabert2_jax.reports import write_report
    from dnabert2_jax.reports.embeddings import embed_test_rows

    if embedding_map:
        embed_test_rows(workdir)
    page = write_report(workdir, map_method)
    remark(f"pictures in {page.parent / 'pictures'}")
    print(f"saved {page}")


def _read_run(path: Path, overrides: Any, command: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(effective settings, those that the file gives), flat: ``section.key`` to value."""
    from dnabert2_jax.config.loading import load_run, parse_run, run_to_dict
    from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
    from dnabert2_jax.training.workdir import RUN_FILE, flat_settings

    kinds = {"pretrain": PretrainRun, "finetune": FinetuneRun}
    if path.is_dir():
        if overrides:
            raise UserError(f"{path} is the workdir of a run, whose settings are fixed; give --set with a TOML file")
        file = path / RUN_FILE
        try:
            content = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} holds no run (there is no {RUN_FILE}); name a run's workdir or TOML file") from None
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); restore it from a copy") from error
    else:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give a run's TOML file or workdir") from error
        except ValueError as error:
            raise UserError(f"{path}: not TOML ({error}); mend that line (text stands in quotes)") from error
    wanted = command or content.get("command")
    if wanted not in kinds:
        found = "no command is named in it" if wanted is None else f"command {wanted!r} is unknown"
        raise UserError(f'{path}: {found}; accepted are pretrain and finetune: add `command = "..."` or give --command')
    kind = kinds[wanted]
    run = parse_run(kind, content, str(path)) if path.is_dir() else load_run(kind, path, overrides)
    return flat_settings(run_to_dict(run)), flat_settings(content)


def _covers(keys: set[str], key: str) -> bool:
    """Whether an override gave this key or a section that holds it."""
    return any(key == given or key.startswith(f"{given}.") for given in keys)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON's strings, numbers, booleans and lists are TOML's
