"""Kill pretraining with SIGKILL in the first compilation, in a step and in a save, and compare the final parameters.

    python benchmarks/kills.py [--runs 10] [--seed 0] [--json FILE]

Every run is killed at three random moments, one of each kind, and restarted with the same command each time; its final
parameters are compared, bit for bit, with those of an undisturbed run. The model is tiny and the DNA is random.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import pretrain_content, run_cli, start_cli, tiny_corpus, tiny_model, write_run

STEPS = 600
KINDS = ("in the first compile", "in a step", "in a save")


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in MetricsLog.read(workdir)), default=0)


def saving(workdir: Path) -> bool:
    return any(not (path / "manifest.json").exists() for path in (workdir / "checkpoints").glob("step_*"))


def kill_when(command: list[object], condition: Callable[[], bool]) -> None:
    """Start the command, and kill it as soon as the condition holds."""
    process = start_cli(*command)
    while process.poll() is None and not condition():
        time.sleep(0.0005)
    if process.poll() is not None:
        raise SystemExit(f"ended before it could be killed:\n{process.communicate()[1]}")
    process.kill()
    process.communicate()


def disturbed(command: list[object], workdir: Path, rng: random.Random, compiling: float) -> dict[str, str]:
    """Kill a run three times; returns where each kill hit. ``compiling``: seconds from the run's file to its first step."""
    moments = {}
    wait, began = rng.uniform(0, 0.7) * compiling, 0.0

    def now() -> bool:
        nonlocal began
        if not began and (workdir / "run.json").exists():
            began = time.monotonic()
        return (began > 0 and time.monotonic() - began > wait) or last_step(workdir) > 0

    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # so that there is something to compile
    kill_when(command, now)
    del os.environ["JAX_ENABLE_COMPILATION_CACHE"]
    moments[KINDS[0]] = f"{wait:.1f} s into it" if last_step(workdir) == 0 else "missed"

    target = last_step(workdir) + rng.randint(2, 100)
    kill_when(command, lambda: last_step(workdir) >= target)
    moments[KINDS[1]] = f"at step {last_step(workdir)}"

    for _ in range(10):  # a save takes milliseconds, so a kill may come too late
        before = last_step(workdir)
        kill_when(command, lambda step=before: saving(workdir) and last_step(workdir) != step)
        if saving(workdir):
            break
    moments[KINDS[2]] = f"at step {last_step(workdir)}" if saving(workdir) else "missed"
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng, rows = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        tiny_model(home / "base")
        tiny_corpus(home)
        training = {"steps": STEPS, "save_every": 20, "evaluate_every": 300, "log_every": 1}
        config = write_run(
            home / "run.toml", "pretrain", pretrain_content(home / "base", home / "corpus", training=training)
        )

        def command(name: str) -> list[object]:
            return ["pretrain", "--config", config, "--workdir", home / name]

        def finish(name: str) -> str:
            done: subprocess.CompletedProcess[str] = run_cli(*command(name))
            if done.returncode:
                raise SystemExit(done.stderr)
            return file_sha256(home / name / "model" / "model.safetensors")

        process, began = start_cli(*command("undisturbed")), 0.0
        while process.poll() is None and last_step(home / "undisturbed") == 0:
            if not began and (home / "undisturbed" / "run.json").exists():
                began = time.monotonic()
            time.sleep(0.01)
        compiling = time.monotonic() - began
        process.communicate()
        wanted = finish("undisturbed")
        for number in range(options.runs):
            moments = disturbed(command(f"run{number}"), home / f"run{number}", rng, compiling)
            same = finish(f"run{number}") == wanted
            rows += [{"run": number, "kind": kind, "moment": moment, "same": same} for kind, moment in moments.items()]
            print(f"run {number}: {moments}: {'the same' if same else 'DIFFERENT'}", flush=True)

    table = Table("killed", "kills", "ended with the same parameters")
    for kind in KINDS:
        hits = [row for row in rows if row["kind"] == kind and row["moment"] != "missed"]
        table.add_row(kind, str(len(hits)), str(sum(bool(row["same"]) for row in hits)))
    Console(width=100).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
