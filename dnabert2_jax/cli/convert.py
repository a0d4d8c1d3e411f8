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
    from dnabert2_jax.convert.hugging_face import load_hugging_face
    from dnabert2_jax.model_directory import save_model
    from dnabert2_jax.modeling.models import count_parameters

    command = ["dnabert2", "convert", "from-hf", str(directory), str(out)]
    saved = save_model(out, load_hugging_face(directory, command))
    classes = f" of {len(saved.labels)} classes: {', '.join(saved.labels)}" if saved.labels else ""
    remark(f"a {saved.kind}{classes}; {count_parameters(saved.params):,} parameters")
    print(f"saved {out}")


@convert.command("to-hf", epilog="Example: dnabert2 convert to-hf runs/promoters/model runs/promoters_hf")
def to_hf(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to make.")],
) -> None:
    """Write a model for PyTorch users: weights by the original's names, config.json and tokenizer.json."""
    from dnabert2_jax.convert.hugging_face import save_hugging_face
    from dnabert2_jax.model_directory import load_model

    save_hugging_face(out, load_model(model))
    print(f"saved {out}")
