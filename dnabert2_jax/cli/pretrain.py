"""``dnabert2 pretrain``."""

from typing import Annotated

from typer import Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import Config, Set, Workdir
from dnabert2_jax.progress import remark


@app.command(
    epilog="Example: dnabert2 pretrain --config configs/pretrain_3m.toml --workdir runs/pretrain "
    "--set data.corpus=runs/corpus"
)
def pretrain(
    workdir: Workdir,
    config: Config = None,
    set_: Set = None,
    coordinator: Annotated[
        str | None, Option(envvar="JAX_COORDINATOR_ADDRESS", metavar="HOST:PORT", help="Address of process 0.")
    ] = None,
    num_processes: Annotated[int | None, Option(envvar="JAX_NUM_PROCESSES", min=1, help="Number of processes.")] = None,
    process_id: Annotated[int | None, Option(envvar="JAX_PROCESS_ID", min=0, help="Index of this process.")] = None,
) -> None:
    """Pretrain an encoder by masked language modeling.

    Rerun the same command to resume a stopped or killed run.

    On several hosts, start the same command on each. TPU pods and Slurm are detected; elsewhere the last three options say
    how the processes find each other. Scripts for all of these are in launch/.
    """
    from dnabert2_jax.cli.failures import report
    from dnabert2_jax.compilation_cache import share_compiled_programs
    from dnabert2_jax.config.loading import load_run
    from dnabert2_jax.config.runs import PretrainRun
    from dnabert2_jax.parallel.ending import end_run, ending_with_the_others
    from dnabert2_jax.parallel.processes import is_first, start_processes

    run = load_run(PretrainRun, config, set_ or ())
    start_processes(coordinator, num_processes, process_id)
    share_compiled_programs(workdir)
    from dnabert2_jax.recipes.pretraining import pretrain as pretrain_run
    from dnabert2_jax.training.goodput import account

    with ending_with_the_others(report):
        model = pretrain_run(run, workdir, hung=end_run)
    if not is_first():
        return
    scores = model.provenance["metrics"]
    remark(
        f"held-out loss {scores['loss']:.4f} nats per token, perplexity {scores['perplexity']:.1f}, "
        f"masked accuracy {scores['masked_accuracy']:.3f}"
    )
    if goodput := account(workdir):
        remark(f"time: {goodput.summary()}")
    print(f"saved {model.path}")
