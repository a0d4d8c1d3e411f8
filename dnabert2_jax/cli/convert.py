"""``dnabert2 convert``: models from and to the layout of Hugging Face."""

from pathlib import Path
from typing import Annotated

import typer

from dnabert2_jax.progress import remark

convert = typer.Typer(no_args_is_help=True, help="Models from and to the layout in which DNABERT-2 is shared.")


@convert.command("from-hf", epilog="Example: dnabert2 convert from-hf DNABERT-2-117M runs/released")
def from_hf(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="config.json, tokenizer.json and the weights.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Model directory to write.")],
) -> None:
    """Read the released weights, or a model trained from them, and write a model directory; needs no torch."""
    from dnabert2_jax.artifacts.model import save_model
    from dnabert2_jax.convert.hugging_face import load_hugging_face
    from dnabert2_jax.data.labels import saved_labels
    from dnabert2_jax.modeling.models import count_parameters

    command = ["dnabert2", "convert", "from-hf", str(directory), str(out)]
    saved = save_model(out, load_hugging_face(directory, command))
    labels = f" of {saved_labels(saved.head, saved.labels).what}" if saved.labels else ""
    remark(f"a {saved.kind}{labels}; {count_parameters(saved.params):,} parameters")
    print(f"saved {out}")


@convert.command("to-hf", epilog="Example: dnabert2 convert to-hf runs/promoters/model runs/promoters_hf")
def to_hf(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to make.")],
) -> None:
    """Write a model for PyTorch users: weights by the original's names, config.json and tokenizer.json."""
    from dnabert2_jax.artifacts.model import load_model
    from dnabert2_jax.convert.hugging_face import save_hugging_face

    save_hugging_face(out, load_model(model))
    print(f"saved {out}")


@convert.command("from-peft", epilog="Example: dnabert2 convert from-peft lora_promoters runs/adapter --base runs/released")
def from_peft(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that PEFT saved.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Adapter directory to write.")],
    base: Annotated[Path, typer.Option(help="Model directory that the adapter was trained on.")],
) -> None:
    """Read a LoRA adapter that PEFT saved for a sequence classifier."""
    from dnabert2_jax.artifacts.adapter import save_adapter
    from dnabert2_jax.artifacts.model import load_model
    from dnabert2_jax.convert.peft import load_peft

    command = ["dnabert2", "convert", "from-peft", str(directory), str(out), "--base", str(base)]
    saved = save_adapter(out, load_peft(directory, load_model(base), command))
    remark(f"rank {saved.lora.rank}, scale {saved.lora.scale:g}, on {', '.join(saved.lora.targets)}")
    print(f"saved {out}")


@convert.command("to-peft", epilog="Example: dnabert2 convert to-peft runs/promoters/adapter runs/promoters_peft")
def to_peft(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to make.")],
    base: Annotated[Path | None, typer.Option(help="The adapter's base, if it is not where the adapter says.")] = None,
) -> None:
    """Write a LoRA adapter for PyTorch users, who load it with PEFT."""
    from dnabert2_jax.artifacts.adapter import load_adapter
    from dnabert2_jax.artifacts.model import load_model
    from dnabert2_jax.convert.peft import save_peft

    save_peft(out, load_adapter(adapter, load_model(base) if base else None))
    print(f"saved {out}")
