"""Eight minutes on a GPU: everything that this repository wants to know of a card, in one session.

    python benchmarks/gpu_session.py --out gpu_session [--parts kernels attention ...] [--minutes 8] [--cpu]

Run it in a clone where `dnabert2 doctor` lists the GPU; it installs nothing. Each part is a process with a budget of its
own: one that fails, hangs, or takes the GPU down costs the others nothing, and what it had measured until then is kept.

    kernels       every attention backend that runs here against the reference, forward and backward, float32 and bfloat16
    attention     TFLOP/s from 128 to 32k tokens, beside cuDNN, XLA, and PyTorch's FlexAttention if torch can be imported
    pretraining   the pretraining step of the 117M with 512 rows: tokens/s, MFU, and a trace
    determinism   twenty steps twice from the same start: the same parameters, bit for bit, or not
    finetuning    steps of the 117M in real tokens/s, beside PyTorch if torch and multimolecule can be imported
    embedding     `dnabert2 embed` in tokens/s
    resume        pretraining killed in a compilation, in a step, and in a save, and resumed to the same parameters

OUT gets session.json, session.html, and of each part a log and what it measured. --cpu tries the same code with tiny sizes
on a CPU, to know that the session will run; its figures mean nothing. Send OUT with a report: it is what we cannot measure.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest accepted difference from the reference, as a share of the largest value."""

KERNEL_SHAPES = ((2, 128, 12), (1, 512, 12), (2, 1000, 12), (4, 300, 8), (1, 2048, 16), (1, 4096, 12))
"""Rows, tokens, heads of 64; rows of more than one sequence are padded at the end."""

ATTENTION_TOKENS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
DENSE_TOKENS = 16384
"""Beyond this, the bias that cuDNN and XLA read takes more memory than most cards have."""

Record = Callable[..., None]
"""Writes one row of what was measured, at once: a part may be stopped at any time."""


@dataclass(frozen=True)
class Part:
    """A part of the session, as a process.

    Attributes:
        name: of its files.
        seconds: its budget.
        command: what to run; writes rows to OUT/name.jsonl, or an object with rows under ``results``, or a list of rows, to
            OUT/name.json.
    """

    name: str
    seconds: float
    command: Sequence[str]


def parts(out: Path, *, tiny: bool) -> list[Part]:
    """All parts, in the order of what matters most; together they take eight minutes."""
    patience = 8 if tiny else 1  # a CPU may be slow and shared, and has no session to share out

    def own(name: str, seconds: float) -> Part:
        command = [sys.executable, str(HERE / "gpu_session.py"), "--out", str(out), "--part", name]
        return Part(name, patience * seconds, [*command, "--cpu"] if tiny else command)

    def script(name: str, seconds: float, file: str, *arguments: str) -> Part:
        command = [sys.executable, str(HERE / file), *arguments, "--json", str(out / f"{name}.json")]
        return Part(name, patience * seconds, command)

    size, batch, steps = ("1m", "4", "1") if tiny else ("117m", "32", "8")
    has_torch = not tiny and all(importlib.util.find_spec(package) for package in ("torch", "multimolecule"))
    torch = ("--torch", sys.executable) if has_torch else ()
    return [
        own("kernels", 50),
        own("attention", 100),
        own("pretraining", 70),
        own("determinism", 50),
        script("finetuning", 80, "finetuning.py", "--size", size, "--batch-size", batch, "--steps", steps, *torch),
        script("embedding", 35, "embedding.py", "--size", size, "--sequences", "50" if tiny else "4000"),
        script("resume", 95, "kills.py", "--runs", "1"),
    ]


# --- parts that no other script has


def kernels(record: Record, *, tiny: bool, out: Path) -> None:
    """Every backend that runs here against the reference in float32, on the same rounded inputs."""
    import jax.numpy as jnp
    import numpy as np

    from dnabert2_jax.errors import UserError
    from dnabert2_jax.kernels.attention import BACKENDS, alibi_slopes

    for rows, tokens, heads in ((2, 64, 2), (1, 100, 3)) if tiny else KERNEL_SHAPES:
        rng = np.random.default_rng(tokens)
        arrays = [rng.standard_normal((rows, tokens, heads, 64), np.float32) for _ in range(4)]
        slopes = jnp.asarray(alibi_slopes(heads))
        segments = np.ones((rows, tokens), np.int32)
        segments[1:, tokens - tokens // 5 :] = 0
        for dtype in ("float32", "bfloat16"):
            given = [jnp.asarray(x, dtype) for x in arrays]
            wanted = forward_and_gradients("reference", [x.astype(jnp.float32) for x in given], slopes, segments)
            for name in BACKENDS:
                if name == "reference":
                    continue
                row: dict[str, Any] = {"backend": name, "rows": rows, "tokens": tokens, "heads": heads, "dtype": dtype}
                try:
                    found = forward_and_gradients(name, given, slopes, segments)
                except UserError:  # it says that it is not for this device
                    continue
                except Exception as error:
                    record(**row, ok=False, error=_first_line(error))
                    continue
                worst = [float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(found, wanted, strict=True)]
                within = all(difference <= LIMITS[dtype] for difference in worst)  # NaN is not
                record(**row, ok=within, **dict(zip(("out", "dq", "dk", "dv"), worst, strict=True)))


def forward_and_gradients(backend: str, arrays: Sequence[Any], slopes: Any, segments: Any) -> list[Any]:
    """The output and the gradients of q, k, and v as float32, zero at padding; ``arrays`` are q, k, v, and dO."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dnabert2_jax.kernels.attention import attention

    real = segments[..., None, None] > 0

    def both(q: Any, k: Any, v: Any, cotangent: Any) -> Any:
        output, vjp = jax.vjp(
            lambda q, k, v: attention(q, k, v, slopes, segment_ids=jnp.asarray(segments), implementation=backend), q, k, v
        )
        return output, *vjp(jnp.where(real, cotangent, 0).astype(output.dtype))

    with jax.default_matmul_precision("highest"):
        return [np.where(real, np.asarray(x, np.float32), 0) for x in jax.jit(both)(*arrays)]


def attention_speed(record: Record, *, tiny: bool, out: Path) -> None:
    """TFLOP/s, all credited with the dense work, as in benchmarks/attention_gpu.py."""
    from attention_gpu import HEAD_DIM, HEADS, TOKENS_IN_ALL, WAYS, in_jax, inputs, seconds
    from jax import numpy as jnp

    from dnabert2_jax.kernels.attention import alibi_slopes, attention

    slopes = jnp.asarray(alibi_slopes(HEADS))
    ways = {**WAYS, "auto": lambda arrays: in_jax(lambda q, k, v: attention(q, k, v, slopes), arrays)}
    for tokens in (64, 128) if tiny else ATTENTION_TOKENS:
        rows = max(1, (256 if tiny else TOKENS_IN_ALL) // tokens)
        flops = 4 * rows * HEADS * HEAD_DIM * tokens**2
        for name, way in ways.items():
            if name in ("cudnn", "xla") and tokens > DENSE_TOKENS:
                continue
            row: dict[str, Any] = {"way": name, "tokens": tokens, "rows": rows}
            try:
                forward, both = (seconds(call, 2 if tiny else 10) for call in way(inputs(rows, tokens)))
            except Exception as error:  # out of memory, not supported, not installed: the others continue
                record(**row, error=_first_line(error))
                continue
            record(**row, forward_tflops=flops / forward / 1e12, both_ways_tflops=3.5 * flops / both / 1e12)


class Pretraining:
    """The step of configs/pretrain_117m.toml on one device, with random tokens."""

    def __init__(self, rows: int, *, tiny: bool) -> None:
        from dnabert2_jax.config.loading import load_run
        from dnabert2_jax.config.model import named_size
        from dnabert2_jax.config.runs import PretrainRun
        from dnabert2_jax.config.sections import MeshOptions
        from dnabert2_jax.modeling.compute import training_compute
        from dnabert2_jax.modeling.models import masked_lm
        from dnabert2_jax.parallel.layout import spread_rows
        from dnabert2_jax.training.objectives import mlm_loss
        from dnabert2_jax.training.optimizer import make_optimizer
        from dnabert2_jax.training.step import make_train_step

        changes = [f"training.batch_size={rows}", "model.unroll=1", "model.parts=1", "optimizer.warmup_steps=1"]
        changes += ["model.size=1m", "data.tokens_per_row=32"] if tiny else []
        self.run = load_run(PretrainRun, ROOT / "configs" / "pretrain_117m.toml", changes)
        self.config = named_size("1m" if tiny else "117m", 4096)
        self.network = masked_lm(self.config, training_compute(self.run.model))
        self.optimizer = make_optimizer(self.run.optimizer, self.run.training.steps)
        self.layout = spread_rows(MeshOptions(data=1), 1, self.network.abstract())
        self.step = make_train_step(mlm_loss(self.network), self.optimizer, self.layout)
        self.rows, self.tokens = rows, self.run.data.tokens_per_row

    def start(self) -> Any:
        """The state before the first step; a function of nothing."""
        from dnabert2_jax.training.step import init_state

        return init_state(self.network.init(0), self.optimizer, self.layout)

    def batch(self, number: int) -> Any:
        """Batch ``number``: tokens after the special ones, the first slots of a row masked."""
        import numpy as np

        from dnabert2_jax.types import MlmBatch, TokenBatch

        rng = np.random.default_rng(number)
        ids = rng.integers(5, self.config.vocab_size, (self.rows, self.tokens), dtype=np.int32)
        slots = self.run.masking.slots(self.tokens)
        positions = np.sort(rng.permuted(np.tile(np.arange(self.tokens, dtype=np.int32), (self.rows, 1)), axis=1)[:, :slots])
        return MlmBatch(
            TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids)),
            positions,
            np.take_along_axis(ids, positions, axis=1),
            np.ones(positions.shape, np.float32),
            np.arange(self.rows, dtype=np.uint32) + np.uint32(number * self.rows),
        )


def pretraining(record: Record, *, tiny: bool, out: Path) -> None:
    """Tokens/s and MFU of the step with 512 rows (fewer if they do not fit), and a trace of three steps."""
    import jax

    from dnabert2_jax.modeling.flops import training_flops_per_token
    from dnabert2_jax.platform import peak_flops

    kind = jax.devices()[0].device_kind
    for rows in (8, 4) if tiny else (512, 256, 64):
        job = Pretraining(rows, tiny=tiny)
        batch, began = jax.device_put(job.batch(0)), time.perf_counter()
        try:
            state, _ = jax.block_until_ready(job.step(job.start(), {}, batch))
        except jax.errors.JaxRuntimeError as error:
            record(rows=rows, error=_first_line(error))
            continue
        first = time.perf_counter() - began
        state, _ = jax.block_until_ready(job.step(state, {}, batch))  # in case a state from a step compiles again
        steps = 3 if tiny else 20
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = job.step(state, {}, batch)
        jax.block_until_ready(state)
        per_step = (time.perf_counter() - began) / steps
        speed = rows * job.tokens / per_step
        flops = training_flops_per_token(job.config, job.tokens, job.run.masking.slots(job.tokens))
        peak = peak_flops(kind)
        record(
            rows=rows,
            tokens_per_row=job.tokens,
            tokens_per_s=speed,
            mfu=None if peak is None else speed * flops / peak,
            ms_a_step=1000 * per_step,
            first_step_s=first,
            loss=float(metrics.sums.loss / metrics.sums.weight),
        )
        with jax.profiler.trace(str(out / "trace")):
            for _ in range(3):
                state, _ = job.step(state, {}, batch)
            jax.block_until_ready(state)
        return


def determinism(record: Record, *, tiny: bool, out: Path) -> None:
    """Twenty steps with dropout, twice from the same start, bit for bit."""
    import jax
    import numpy as np

    job = Pretraining(4 if tiny else 64, tiny=tiny)
    steps, ends = 20, []
    for _ in range(2):
        state = job.start()
        for number in range(steps):
            state, metrics = job.step(state, {}, job.batch(number))
        ends.append((jax.device_get(state), float(metrics.sums.loss)))
    (first, loss), (second, _) = ends
    leaves = list(zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    different = sum(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in leaves)
    record(steps=steps, rows=job.rows, arrays=len(leaves), different_arrays=different, ok=different == 0, loss=loss)


OWN: dict[str, Callable[..., None]] = {
    "kernels": kernels,
    "attention": attention_speed,
    "pretraining": pretraining,
    "determinism": determinism,
}


# --- the session


def run_part(part: Part, out: Path, seconds: float) -> dict[str, Any]:
    """Run a part for at most ``seconds``; what it measured, and how it ended."""
    log, began = out / f"{part.name}.log", time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            part.command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT
        )
        try:
            code = process.wait(timeout=seconds)
            ended = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # what it started as well
                process.wait()
    return {"part": part.name, "ended": ended, "seconds": time.monotonic() - began, "rows": measured(out, part.name)}


def measured(out: Path, name: str) -> list[dict[str, Any]]:
    """The rows that a part wrote, in either form."""
    lines, whole = out / f"{name}.jsonl", out / f"{name}.json"
    if lines.exists():
        return [json.loads(line) for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    found = json.loads(whole.read_text()) if whole.exists() else []
    rows: list[dict[str, Any]] = found["results"] if isinstance(found, dict) else found
    return rows


def run_session(chosen: Sequence[Part], out: Path, seconds: float) -> list[dict[str, Any]]:
    """Run the parts one after another until ``seconds`` are over; session.json is whole after each of them."""
    deadline, results = time.monotonic() + seconds, list[dict[str, Any]]()
    about = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    for part in chosen:
        left = deadline - time.monotonic()
        if left < min(10, part.seconds):
            results.append({"part": part.name, "ended": "not begun: the time was over", "seconds": 0.0, "rows": []})
        else:
            print(f"{part.name}: at most {min(left, part.seconds):.0f} s", flush=True)
            results.append(run_part(part, out, min(left, part.seconds)))
        print(f"{part.name}: {results[-1]['ended']}, {len(results[-1]['rows'])} rows", flush=True)
        (out / "session.json").write_text(json.dumps({**about, "parts": results}, indent=1) + "\n")
    write_page(about, results, out)
    return results


def machine() -> str:
    """What `dnabert2 doctor` prints, from a process of its own: this one must not hold the GPU."""
    doctor = [sys.executable, "-m", "dnabert2_jax", "doctor"]
    try:
        done = subprocess.run(doctor, capture_output=True, text=True, cwd=ROOT, timeout=60)
    except subprocess.TimeoutExpired:
        return "dnabert2 doctor did not answer within 60 s"
    return done.stdout or done.stderr


def write_page(about: dict[str, str], results: Sequence[dict[str, Any]], out: Path) -> None:
    """session.html: a table for each part; of one that did not end well, the end of its log, too."""
    from dnabert2_jax.reports.page import Heading, Page, Section, Table, Text

    sections = []
    for result in results:
        blocks: list[Any] = [Text(f"{result['ended']}, {result['seconds']:.0f} s")]
        if rows := result["rows"]:
            header = tuple(dict.fromkeys(name for row in rows for name in row))
            cells = [tuple(_cell(row.get(name)) for name in header) for row in rows]
            blocks.append(Table(header, cells))
        log = out / f"{result['part']}.log"
        if result["ended"] != "done" and log.exists():
            blocks += [Heading("The end of its log"), *map(Text, log.read_text(errors="replace").splitlines()[-15:])]
        sections.append(Section(result["part"], result["part"], blocks))
    doctor = Section("machine", "machine", [Text(line) for line in about["machine"].splitlines()])
    page = Page("A session on a GPU", f"began {about['began']}; benchmarks/gpu_session.py", [*sections, doctor])
    (out / "session.html").write_text(page.html())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write; must be new")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these (default: all)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything together")
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on a CPU, to try the script")
    parser.add_argument("--part", choices=list(OWN), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch takes turns with us
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if args.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    if args.part:
        with (args.out / f"{args.part}.jsonl").open("a") as file:

            def record(**row: Any) -> None:
                print(json.dumps(row), file=file, flush=True)
                print(row, flush=True)

            OWN[args.part](record, tiny=args.cpu, out=args.out)
        return
    out = args.out.absolute()
    every = parts(out, tiny=args.cpu)
    if unknown := set(args.parts or ()) - {part.name for part in every}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in every)}")
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        parser.error(f"{out} exists; name a new directory")
    run_session([part for part in every if not args.parts or part.name in args.parts], out, 60 * args.minutes)
    print(f"saved {out / 'session.json'} and {out / 'session.html'}")


if __name__ == "__main__":
    main()
