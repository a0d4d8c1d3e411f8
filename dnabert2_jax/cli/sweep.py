"""``dnabert2 sweep``."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import Config, Set, local_path
from dnabert2_jax.cli.output import print_table


@app.command(
    epilog="Example: dnabert2 sweep --config configs/finetune_lora.toml --workdir runs/sweep --trials 12 "
    "--search optimizer.learning_rate=1e-4..1e-2:log --search lora.rank=4,8,16"
)
def sweep(
    workdir: Annotated[Path, Option(parser=local_path, help="Directory of the sweep; reuse it to resume.")],
    search: Annotated[
        list[str], Option(metavar="A.B=VALUES", help="LOW..HIGH, LOW..HIGH:log, or a list A,B,C; repeatable.")
    ],
    config: Config = None,
    set_: Set = None,
    trials: Annotated[int, Option(min=1, help="Fine-tuning runs, those of earlier calls included.")] = 20,
    seed: Annotated[int, Option(min=0, help="Seed of the search.")] = 0,
    keep_models: Annotated[bool, Option(help="Keep the models of all trials, not only the best one's.")] = False,
) -> None:
    """Search for the settings of a fine-tuning run.

    Each trial is a run of its own, and the best dev score wins. Rerun the same command to resume, or with more --trials to
    continue.
    """
    from dnabert2_jax.recipes.sweep import BEST, PAGE, Choice
    from dnabert2_jax.recipes.sweep import sweep as run_sweep

    choices = [Choice.parse(text) for text in search]
    found = run_sweep(config, set_ or (), choices, workdir, trials=trials, seed=seed, keep_models=keep_models)
    print_table(found.rows()[:10])
    print(f"saved {workdir / PAGE}")
    print(f"saved {workdir / BEST}")
