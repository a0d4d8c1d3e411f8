"""``dnabert2 merge``, ``adapters list`` and ``adapters extract``."""

from pathlib import Path
from typing import Annotated, get_args

from typer import Argument, Option

from dnabert2_jax.cli.app import app, group
from dnabert2_jax.cli.options import Base, Force, local_path, path
from dnabert2_jax.config.model import LoraTarget
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.progress import ProgressBar, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

adapters = group("adapters", "List LoRA adapters, and extract one from a model.")


@app.command(epilog="Example: dnabert2 merge runs/promoters/adapter --out runs/promoters_merged")
def merge(
    adapter: Annotated[Path, Argument(parser=path, help="Adapter directory.")],
    out: Annotated[Path, Option(parser=path, help="Model directory to write.")],
    base: Base = None,
    force: Force = False,
) -> None:
    """Merge a LoRA adapter into its base model.

    Writes a model directory that needs neither of the two.
    """
    from dnabert2_jax.artifacts.adapter import merged
    from dnabert2_jax.artifacts.directory import is_adapter_directory
    from dnabert2_jax.artifacts.model import save_model
    from dnabert2_jax.convert.opening import open_adapter
    from dnabert2_jax.data.labels import saved_labels

    if adapter.is_dir() and not is_adapter_directory(adapter):
        raise UserError(f"{adapter} is not an adapter directory (it holds no adapter.json); name the one to merge")
    refuse_overwriting(out, force=force)
    saved = save_model(out, merged(open_adapter(adapter, base)))
    remark(f"a {saved.kind} of {saved_labels(saved.head, saved.labels).what}")
    print(f"saved {out}")


@adapters.command("list", epilog="Example: dnabert2 adapters list runs")
def adapters_list(
    directories: Annotated[
        list[Path],
        Argument(metavar="DIR", parser=local_path, help="Adapter directories, or directories with adapters in them."),
    ],
) -> None:
    """List adapters with their base, settings and scores.

    Checks every file and the base's hash.
    """
    from dnabert2_jax.artifacts.adapter import find_adapters
    from dnabert2_jax.convert.opening import open_adapter
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.metrics.tasks import TASK_METRICS
    from dnabert2_jax.modeling.models import count_parameters

    problems = []
    for found in find_adapters(directories):
        print(found)
        try:
            adapter = open_adapter(found)
        except UserError as error:
            problems.append(str(error))
            print("  not usable")
            continue
        lora, dev = adapter.lora, adapter.provenance.get("metrics", {}).get("dev")
        labels = saved_labels(adapter.head, adapter.labels)
        size = sum(file.stat().st_size for file in found.iterdir())
        print(f"  base     {adapter.base.path}")
        print(f"  LoRA     rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}")
        print(f"  for      {labels.what}" + (f"; dev {TASK_METRICS[labels.head.task].brief(dev)}" if dev else ""))
        print(f"  size     {count_parameters(adapter.params):,} parameters with the heads, {size / 1e6:,.2f} MB")
    if problems:
        raise UserError("; ".join(problems))


@adapters.command(
    "extract",
    epilog="Example: dnabert2 adapters extract runs/promoters/model --base runs/pretrain/model --out runs/promoters_adapter",
)
def adapters_extract(
    model: Annotated[Path, Argument(parser=path, help="Classifier directory, merged or fully fine-tuned.")],
    base: Annotated[Path, Option(parser=path, help="The model directory it was trained from.")],
    out: Annotated[Path, Option(parser=path, help="Adapter directory to write.")],
    rank: Annotated[int, Option(min=1, help="Rank of the adapter.")] = 8,
    target: Annotated[
        list[str] | None, Option(metavar="NAME", help="Projection to adapt; repeatable.", show_default="all four")
    ] = None,
    max_loss: Annotated[float, Option(min=0, max=1, help="Maximum fraction of the change that may be lost.")] = 0.01,
    force: Force = False,
) -> None:
    """Extract an adapter from a fine-tuned classifier.

    The adapter is the low-rank part of the difference from the base, by singular value decomposition.
    """
    from dnabert2_jax.artifacts.adapter import extract_adapter, save_adapter
    from dnabert2_jax.convert.opening import open_model

    names = get_args(LoraTarget)
    for name in target or ():
        if name not in names:
            raise UserError(f"--target {name} is unknown; accepted are {', '.join(names)}{nearest(name, names)}")
    refuse_overwriting(out, force=force)
    targets: tuple[LoraTarget, ...] = tuple(name for name in names if not target or name in target)
    trained, origin = open_model(model), open_model(base)
    with ProgressBar("singular values", len(targets)) as bar:
        adapter, loss = extract_adapter(trained, origin, rank=rank, targets=targets, max_loss=max_loss, progress=bar.advance)
    save_adapter(out, adapter)
    remark(f"rank {rank} on {', '.join(targets)} preserves all but {loss:.3%} of the change in the encoder")
    print(f"saved {out}")
