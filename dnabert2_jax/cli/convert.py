"""``dnabert2 convert from-hf``, ``to-hf``, ``from-peft`` and ``to-peft``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.options import Base, Force, path
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

convert = group("convert", "Convert from and to Hugging Face's formats.")


@convert.command("from-hf", epilog="Example: dnabert2 convert from-hf DNABERT-2-117M runs/released")
def from_hf(
    directory: Annotated[
        Path,
        Argument(metavar="DIR", parser=path, help="With config.json, tokenizer.json and weights; or hf:OWNER/NAME."),
    ],
    out: Annotated[Path, Argument(metavar="OUT", parser=path, help="Model directory to write.")],
    force: Force = False,
) -> None:
    """Import a model in Hugging Face's format.

    The released weights, or a model trained from them; PyTorch is not needed.
    """
    from dnabert2_jax.artifacts.model import save_model
    from dnabert2_jax.convert.opening import open_hugging_face
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.modeling.models import count_parameters

    refuse_overwriting(out, force=force)
    command = ["dnabert2", "convert", "from-hf", str(directory), str(out)]
    saved = save_model(out, open_hugging_face(directory, command))
    labels = f" of {saved_labels(saved.head, saved.labels).what}" if saved.labels else ""
    remark(f"a {saved.kind}{labels}; {count_parameters(saved.params):,} parameters")
    print(f"saved {out}")


@convert.command("to-hf", epilog="Example: dnabert2 convert to-hf runs/promoters/model runs/promoters_hf")
def to_hf(
    model: Annotated[Path, Argument(metavar="MODEL", parser=path, help="Model directory.")],
    out: Annotated[Path, Argument(metavar="OUT", parser=path, help="Directory to create.")],
    push: Annotated[
        str | None,
        Option(metavar="OWNER/NAME", help="Also upload it to the Hugging Face Hub; a new repository is private."),
    ] = None,
    force: Force = False,
) -> None:
    """Export a model to Hugging Face's format.

    Weights under the original's names, config.json and tokenizer.json, for PyTorch users.
    """
    from dnabert2_jax.convert import hub
    from dnabert2_jax.convert.hugging_face import save_hugging_face
    from dnabert2_jax.convert.opening import open_model
    from dnabert2_jax.storage.copies import local_copy

    refuse_overwriting(out, force=force)
    repository = None if push is None else hub.checked_repository(push)
    save_hugging_face(out, open_model(model), force=force)
    print(f"saved {out}")
    if repository is not None:
        print(f"pushed {hub.PREFIX}{hub.push(local_copy(out), repository)}")


@convert.command("from-peft", epilog="Example: dnabert2 convert from-peft lora_promoters runs/adapter --base runs/released")
def from_peft(
    directory: Annotated[Path, Argument(metavar="DIR", parser=path, help="Directory saved by PEFT.")],
    out: Annotated[Path, Argument(metavar="OUT", parser=path, help="Adapter directory to write.")],
    base: Annotated[Path, Option(parser=path, help="Model directory the adapter was trained on.")],
    force: Force = False,
) -> None:
    """Import a LoRA adapter of a classifier from PEFT."""
    from dnabert2_jax.artifacts.adapter import save_adapter
    from dnabert2_jax.convert.opening import open_model
    from dnabert2_jax.convert.peft import load_peft

    refuse_overwriting(out, force=force)
    command = ["dnabert2", "convert", "from-peft", str(directory), str(out), "--base", str(base)]
    saved = save_adapter(out, load_peft(directory, open_model(base), command))
    remark(f"rank {saved.lora.rank}, scale {saved.lora.scale:g}, on {', '.join(saved.lora.targets)}")
    print(f"saved {out}")


@convert.command("to-peft", epilog="Example: dnabert2 convert to-peft runs/promoters/adapter runs/promoters_peft")
def to_peft(
    adapter: Annotated[Path, Argument(metavar="ADAPTER", parser=path, help="Adapter directory.")],
    out: Annotated[Path, Argument(metavar="OUT", parser=path, help="Directory to create.")],
    base: Base = None,
    force: Force = False,
) -> None:
    """Export a LoRA adapter to PEFT's format."""
    from dnabert2_jax.convert.opening import open_adapter
    from dnabert2_jax.convert.peft import save_peft

    refuse_overwriting(out, force=force)
    save_peft(out, open_adapter(adapter, base), force=force)
    print(f"saved {out}")
