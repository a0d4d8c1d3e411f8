"""Target `cpu`: time and peak memory of `blocked` on this machine vs. XLA and PyTorch, which build the T x T scores.

Each implementation runs in its own process (attention_cpu_child.py); they alternate call by call, and the best time of each
is reported. CPU time is the sum over cores; on a shared machine it is more meaningful than wall time. PyTorch uses
`scaled_dot_product_attention` with the ALiBi bias as a mask built before timing starts; its peak memory includes that mask.
The inputs are normally distributed float32 (their S is 12 to 15); peak memory is what a call adds to the process.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from dnabert2_jax.kernels.attention import alibi_slopes

CHILD = Path(__file__).with_name("attention_cpu_child.py")
PASSES = {"forward": "forward", "both": "both ways"}


class Way:
    """One implementation at one shape, in a process that answers each call with one line."""

    def __init__(self, interpreter: str, shape: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [interpreter, str(CHILD), json.dumps(shape)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )

    def call(self, what: str) -> dict[str, float]:
        """{"seconds", "cpu_seconds", "peak_bytes"}, or {"needs_bytes"} if there is not enough memory."""
        assert self._process.stdin
        assert self._process.stdout
        print(what, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._process.args!r} ended with exit status {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compare(ways: dict[str, Way], what: str, repeats: int) -> dict[str, dict[str, float]]:
    """The best times and the highest peak of each implementation; the first round is a warm-up."""
    best = {name: way.call(what) for name, way in ways.items()}
    able = [name for name in ways if "seconds" in best[name]]
    for name in able:
        best[name] |= {"seconds": float("inf"), "cpu_seconds": float("inf")}
    for _ in range(repeats):
        for name in able:
            for key, value in ways[name].call(what).items():
                best[name][key] = (max if key == "peak_bytes" else min)(best[name][key], value)
    return best


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser("attention.py --target cpu", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192], metavar="TOKENS")
    parser.add_argument("--call-tokens", type=int, default=4096, help="batch short rows up to this many tokens per call")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torch-python", help="Python interpreter with torch; without it, PyTorch is skipped")
    args = parser.parse_args(arguments)

    interpreters = dict.fromkeys(("reference", "chunked", "blocked", "blocked, no skipping"), sys.executable)
    if args.torch_python:
        interpreters["PyTorch"] = args.torch_python
    results = []
    for tokens in args.lengths:
        shape = {
            "batch": max(1, args.call_tokens // tokens),
            "tokens": tokens,
            "head_dim": args.head_dim,
            "slopes": alibi_slopes(args.heads).tolist(),
        }
        ways = {name: Way(python, {**shape, "implementation": name}) for name, python in interpreters.items()}
        for what in PASSES:
            found = compare(ways, what, args.repeats)
            results.append({"tokens": tokens, "rows": shape["batch"], "pass": what, "ways": found})
            print(json.dumps(results[-1]), file=sys.stderr)
        for way in ways.values():
            way.close()
    about = {"jax": jax.__version__, "python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}
    console = Console()
    load = os.getloadavg()[1]
    machine = f"jax {about['jax']}, {about['cores']} cores, load average {load:.1f}"
    console.print(f"{args.heads} heads of {args.head_dim}, float32; {machine}")
    for title, key, unit in (
        ("time, ms", "seconds", 1e-3),
        ("CPU time, ms", "cpu_seconds", 1e-3),
        ("peak MB", "peak_bytes", 1e6),
    ):
        console.print(as_table(title, list(interpreters), results, key, unit))
    return {**about, "load_average": load, "heads": args.heads, "head_dim": args.head_dim, "results": results}


def as_table(title: str, names: list[str], results: list[dict[str, Any]], key: str, unit: float) -> Table:
    table = Table("tokens", "rows", "pass", *names, title=title)
    for result in results:
        values = [way.get(key, float("nan")) / unit for way in result["ways"].values()]
        cells = [f"{value:,.0f}" if value == value else "-" for value in values]
        table.add_row(f"{result['tokens']:,}", str(result["rows"]), PASSES[result["pass"]], *cells)
    return table
