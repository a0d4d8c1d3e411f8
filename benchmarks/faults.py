"""What a pretraining run does about each fault in each phase: how it ends, how soon, and what the next call makes of it.

    python benchmarks/faults.py [--faults kill SIGTERM ...] [--phases save ...] [--seed 0] [--json FILE]

Every run is a real one of the command, in a bucket of an emulator (``gs://``), or on a disk where that is to be full. A
fault strikes at the third save, in the evaluation before it, in the final export, or at the start of a run that resumes.
Then it is mended, and the same command is run again, which has to resume from the newest intact checkpoint and end with the
parameters, bit for bit, of a run without faults. A run that has not ended after four minutes counts as hanging. The model
is tiny and the DNA is random. With ``--json``, rows of what was tried before are kept.
"""

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.copies import local_copy
from dnabert2_jax.storage.directories import files_below
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.storage.paths import as_path, file_system
from tests.emulators import SCHEMES, Store, free_port, point_at
from tests.helpers import pretrain_content, tiny_corpus, tiny_model, write_run
from tests.processes import Process, start_script, wait_until

FAULTS = {
    "kill": "`kill -9`",
    "SIGTERM": "SIGTERM",
    "hang": "hang",
    "full disk": "full disk",
    "lost host": "one of two hosts is lost",
    "503": "the bucket answers 503",
    "slow": "the bucket is slow",
    "corrupt": "the newest checkpoint is damaged, and the run killed",
}
CALLS = {"start": 0, "evaluate": 0, "save": 2, "export": 0}
"""The phases, and at which call in a run the fault strikes, from 0."""

STEPS, SAVE_EVERY = 24, 4
HANG_TIMEOUT = 8
"""Seconds, of the runs that hang; others have the default."""

SECONDS_OF_A_REQUEST = 0.3
FILE_SIZE = 6000
"""Bytes that a file may have on a full disk: room for messages, and for no checkpoint."""

MOST_SECONDS = 240

RUN = """
import sys, threading
from pathlib import Path
from dnabert2_jax.cli import main
from dnabert2_jax.recipes import pretraining
from dnabert2_jax.training.checkpoint import Checkpoints

mark, phase, number, pause, *sys.argv[1:] = sys.argv[1:]
calls = iter(range(1000))

def marked(function):
    def call(*arguments, **options):
        if next(calls) == int(number):
            Path(mark).touch()
            threading.Event().wait(None if pause == "inf" else float(pause))
        return function(*arguments, **options)
    return call

owner, name = {
    "start": (Checkpoints, "restore_latest"),
    "evaluate": (pretraining, "evaluate"),
    "save": (Checkpoints, "save"),
    "export": (pretraining, "save_model"),
}[phase]
setattr(owner, name, marked(getattr(owner, name)))
main()
"""
"""The command, which touches a file when it comes to a phase, and then waits a little."""


@dataclass(frozen=True)
class Bench:
    """Where runs are made.

    Attributes:
        home: a folder on this machine.
        bucket: the emulator's.
        store: the emulator.
        config: of all runs.
        rng: draws moments.
    """

    home: Path
    bucket: Path
    store: Store
    config: Path
    rng: random.Random

    def start(self, workdir: Path, phase: str = "export", pause: float | None = None, hosts: int = 1) -> list[Process]:
        """Start the command on this many processes; without a ``pause``, none of them marks the phase."""
        place = f"127.0.0.1:{free_port()}"
        processes = []
        for host in range(hosts):
            number = CALLS[phase] if pause is not None and host == 0 else -1
            several = ("--coordinator", place, "--num-processes", hosts, "--process-id", host) if hosts > 1 else ()
            hangs = ("--set", f"training.hang_timeout={HANG_TIMEOUT}") if pause == math.inf else ()
            command = ("pretrain", "--config", self.config, "--workdir", workdir, *several, *hangs)
            processes.append(start_script(RUN, self.mark, phase, number, pause or 0, *command))
        return processes

    @property
    def mark(self) -> Path:
        """The file that a run touches when it comes to the phase."""
        return self.home / "mark"

    def finish(self, workdir: Path, hosts: int) -> tuple[str, int]:
        """Run the command to its end; the hash of its parameters, and the step from which it resumed."""
        [(errors, code), *_] = ends(self.start(workdir, hosts=hosts), most_seconds=900)
        if code != 0:
            raise SystemExit(errors)
        resumed = re.search(r"resuming from step (\d+)", errors)
        return file_sha256(local_copy(workdir / "model") / "model.safetensors"), int(resumed[1]) if resumed else 0


def ends(processes: list[Process], most_seconds: float = MOST_SECONDS) -> list[tuple[str, int | None]]:
    """Standard error and exit code of processes; None where one had to be killed because it hangs."""
    deadline = time.monotonic() + most_seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
    return [(process.communicate()[1], code) for process, code in zip(processes, codes, strict=True)]


def sealed_steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints with a manifest, oldest first."""
    found = (re.fullmatch(r"step_(\d+)/manifest\.json", name) for name in files_below(workdir / "checkpoints"))
    return sorted(int(match[1]) for match in found if match)


def damage(workdir: Path) -> None:
    """Change one bit of the newest checkpoint."""
    step = workdir / "checkpoints" / f"step_{sealed_steps(workdir)[-1]:08d}"
    name = max(buckets.names(step), key=lambda name: (name.startswith("state/d/"), name))
    content = bytearray(buckets.read(step / name) or b"")
    content[len(content) // 2] ^= 1
    buckets.write(step / name, bytes(content))


def strike(fault: str, processes: list[Process], workdir: Path, bench: Bench) -> None:
    """Let the fault happen to a run that has come to the phase."""
    match fault:
        case "kill":
            time.sleep(bench.rng.uniform(0, 1))
            processes[0].kill()
        case "SIGTERM":
            processes[0].send_signal(signal.SIGTERM)
        case "lost host":
            processes[1].kill()
        case "full disk":
            resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        case "503":
            bench.store.fault = lambda method, path: 503
        case "slow":
            bench.store.fault = lambda method, path: time.sleep(SECONDS_OF_A_REQUEST)
        case "corrupt":
            wait_until(processes[0], lambda: len(sealed_steps(workdir)) > 1)  # the one before it is to be used
            processes[0].kill()
            processes[0].communicate()
            damage(workdir)


def one(fault: str, phase: str, wanted: str, halfway: Path, hosts: int, bench: Bench) -> dict[str, Any]:
    """One fault in one phase, and the call after it."""
    name = f"{fault}_{phase}".replace(" ", "_")
    on_disk = fault == "full disk"
    workdir = bench.home / name if on_disk else bench.bucket / name
    if phase == "start":  # a run that resumes
        if on_disk:
            shutil.copytree(halfway, workdir)
        else:
            buckets.upload({name: halfway / name for name in files_below(halfway)}, workdir)
    bench.mark.unlink(missing_ok=True)
    pause = {"hang": math.inf, "corrupt": 60}.get(fault, 0.5)
    processes = bench.start(workdir, phase, pause, hosts)
    wait_until(processes[0], bench.mark.exists, timeout=600)
    began = time.monotonic()
    strike(fault, processes, workdir, bench)
    ended = ends(processes)
    seconds = time.monotonic() - began
    bench.store.fault = lambda method, path: None
    intact = sealed_steps(workdir)[: -1 if fault == "corrupt" else None]
    result, resumed = bench.finish(workdir, hosts)
    said = [line for line in ended[0][0].splitlines() if line.startswith(("dnabert2:", "stopped"))]
    return {
        "fault": fault,
        "phase": phase,
        "codes": [code for _, code in ended],
        "seconds": round(seconds, 1),
        "said": said[-1] if said else "",
        "lines": len(said),
        "intact": intact[-1] if intact else 0,
        "resumed": resumed,
        "same": result == wanted,
    }


def half_a_run(bench: Bench, hosts: int) -> Path:
    """The directory, on this machine, of a run that was killed after half of its steps."""
    workdir = bench.home / f"halfway_{hosts}"
    processes = bench.start(workdir, hosts=hosts)
    seal = workdir / "checkpoints" / f"step_{STEPS // 2:08d}" / "manifest.json"
    wait_until(processes[0], seal.exists, timeout=600)
    for process in processes:
        process.kill()
        process.communicate()
    return workdir


def try_all(faults: list[str], phases: list[str], bench: Bench) -> Iterator[dict[str, Any]]:
    for fault in faults:
        hosts = 2 if fault == "lost host" else 1
        wanted, halfway = undisturbed(hosts, bench)
        for phase in phases:
            yield one(fault, phase, wanted, halfway, hosts, bench)


@cache
def undisturbed(hosts: int, bench: Bench) -> tuple[str, Path]:
    """The hash of the parameters at the end of a run without faults; and the directory of half a run."""
    wanted, _ = bench.finish(bench.bucket / f"undisturbed_{hosts}", hosts)
    return wanted, half_a_run(bench, hosts)


def show(rows: list[dict[str, Any]]) -> None:
    """Print how runs ended: exit codes, seconds from the fault to the end of all processes, and what the next call did."""
    table = Table("fault", *CALLS)
    for fault, words in FAULTS.items():
        cells = {row["phase"]: row for row in rows if row["fault"] == fault}
        if cells:
            table.add_row(words, *(_cell(cells[phase]) if phase in cells else "" for phase in CALLS))
    Console(width=140).print(table)
    hung = sum(None in row["codes"] for row in rows)
    lost = sum(row["intact"] - row["resumed"] for row in rows)
    print(f"{len(rows)} faults: {hung} hang, {lost} steps lost beyond the last intact checkpoint, ", end="")
    print(f"{sum(row['same'] for row in rows)} ended with the same parameters")


def _cell(row: dict[str, Any]) -> str:
    codes = ", ".join("hangs" if code is None else str(code) for code in row["codes"])
    same = "same" if row["same"] else "OTHER"
    return f"{codes} after {row['seconds']:.0f} s; on from {row['resumed']} of {row['intact']}, {same}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--phases", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    before = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    rows = [row for row in before if row["fault"] not in options.faults or row["phase"] not in options.phases]
    ports = {name: free_port() for name in SCHEMES}
    point_at(ports)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        os.environ["DNABERT2_BUCKET_CACHE"] = str(home / "cache")
        os.environ["DNABERT2_COMPILATION_CACHE"] = str(home / "compiled")
        store = Store("gs", ports["gs"], home / "emulator.log")
        try:
            file_system("gs").mkdir("faults")
            tiny_model(home / "base")
            tiny_corpus(home)
            training = {"steps": STEPS, "save_every": SAVE_EVERY, "evaluate_every": STEPS // 2, "log_every": 1}
            content = pretrain_content(home / "base", home / "corpus", training=training, mesh={"data": -1})
            config = write_run(home / "run.toml", "pretrain", content)
            bench = Bench(home, as_path("gs://faults"), store, config, random.Random(options.seed))
            for row in try_all(options.faults, options.phases, bench):
                print(json.dumps(row), flush=True)
                rows.append(row)
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1) + "\n")
        finally:
            store.stop()
    show(rows)


if __name__ == "__main__":
    main()
