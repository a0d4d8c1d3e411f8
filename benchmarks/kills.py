"""Kill pretraining with SIGKILL in the first compilation, in a step and in a save, and compare the final parameters.

    python benchmarks/kills.py [--runs 10] [--seed 0] [--store gs|s3] [--json FILE]

Every run is killed at three random moments, one of each kind, and restarted with the same command each time; its final
parameters are compared, bit for bit, with those of an undisturbed run. The model is tiny and the DNA is random.

With ``--store``, the runs lie in a bucket of an emulator, and are killed in a save, in an evaluation and in the final
export: in saves and exports as they make a random one of their requests, and in an evaluation at a random moment of a run
that does little else.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.paths import as_path, file_system
from dnabert2_jax.training.workdir import MetricsLog
from tests.emulators import SCHEMES, Store, free_port, kill_at_request, point_at
from tests.helpers import pretrain_content, tiny_corpus, tiny_model, write_run
from tests.processes import run_cli, start_cli

STEPS = 600
KINDS = ("in the first compile", "in a step", "in a save")
KINDS_IN_BUCKETS = ("in a save", "in an evaluation", "in the final export")
MOST_REQUESTS = 12
"""At about this many requests, a save or an export of the tiny model is done."""


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in MetricsLog.read(workdir)), default=0)


def saving(workdir: Path) -> bool:
    return any(not (path / "manifest.json").exists() for path in (workdir / "checkpoints").glob("step_*"))


def saving_after(workdir: Path, step: int) -> bool:
    return saving(workdir) and last_step(workdir) != step


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
        kill_when(command, partial(saving_after, workdir, before))
        if saving(workdir):
            break
    moments[KINDS[2]] = f"at step {last_step(workdir)}" if saving(workdir) else "missed"
    return moments


def disturbed_in_bucket(command: list[object], store: Store, rng: random.Random, seconds: float) -> dict[str, str]:
    """The same for a run in a bucket; ``seconds``: about how long one takes."""
    moments = {}
    for kind, part in ((KINDS_IN_BUCKETS[0], "checkpoints/step_"), (KINDS_IN_BUCKETS[2], "/model/")):
        number = rng.randrange(MOST_REQUESTS)
        killed = kill_at_request(store, start_cli(*command), part, number)
        moments[kind] = f"at request {number}" if killed else "missed"
        if kind == KINDS_IN_BUCKETS[0]:
            began, wait = time.monotonic(), rng.uniform(0.5, 0.9) * seconds
            process = start_cli(*command)
            while process.poll() is None and time.monotonic() - began < wait:
                time.sleep(0.01)
            moments[KINDS_IN_BUCKETS[1]] = f"after {wait:.1f} s" if process.poll() is None else "missed"
            process.kill()
            process.communicate()
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=SCHEMES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng, rows = random.Random(options.seed), []
    if options.store:
        rows = in_buckets(options.store, options.runs, rng)
        return show(rows, KINDS_IN_BUCKETS, options.json)
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

    show(rows, KINDS, options.json)


def in_buckets(scheme: str, runs: int, rng: random.Random) -> list[dict[str, object]]:
    """Runs in a bucket of an emulator, and how they ended."""
    ports, rows = {name: free_port() for name in SCHEMES}, []
    point_at(ports)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        os.environ["DNABERT2_BUCKET_CACHE"] = str(home / "cache")
        store = Store(scheme, ports[scheme], home / "emulator.log")
        try:
            file_system(scheme).mkdir("kills")
            bucket = as_path(f"{scheme}://kills")
            tiny_model(home / "base")
            tiny_corpus(home)
            training = {"steps": 60, "save_every": 10, "evaluate_every": 5, "log_every": 1}
            content = pretrain_content(home / "base", home / "corpus", training=training, data={"validation_rows": 2048})
            config = write_run(home / "run.toml", "pretrain", content)

            def finish(name: str) -> str:
                done = run_cli("pretrain", "--config", config, "--workdir", bucket / name)
                if done.returncode:
                    raise SystemExit(done.stderr)
                return file_sha256(local_copy(bucket / name / "model") / "model.safetensors")

            finish("first")  # compiles
            began = time.monotonic()
            wanted = finish("undisturbed")
            seconds = time.monotonic() - began
            for number in range(runs):
                command = ["pretrain", "--config", config, "--workdir", bucket / f"run{number}"]
                moments = disturbed_in_bucket(command, store, rng, seconds)
                same = finish(f"run{number}") == wanted
                rows += [{"run": number, "kind": kind, "moment": moment, "same": same} for kind, moment in moments.items()]
                print(f"run {number}: {moments}: {'the same' if same else 'DIFFERENT'}", flush=True)
        finally:
            store.stop()
    return rows


def show(rows: list[dict[str, object]], kinds: Sequence[str], json_file: Path | None) -> None:
    """Print how many runs ended the same, by kind of kill."""
    table = Table("killed", "kills", "ended with the same parameters")
    for kind in kinds:
        hits = [row for row in rows if row["kind"] == kind and row["moment"] != "missed"]
        table.add_row(kind, str(len(hits)), str(sum(bool(row["same"]) for row in hits)))
    Console(width=100).print(table)
    if json_file:
        json_file.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
