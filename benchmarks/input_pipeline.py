"""From a memory-mapped genome to masked batches on the devices: rows per second, where the time is spent, memory over time.

    python benchmarks/input_pipeline.py --corpus runs/corpus --tokenizer runs/tokenizer [--seconds 20] [--json FILE]
    JAX_NUM_CPU_DEVICES=8 python benchmarks/input_pipeline.py     # one process that feeds eight devices

Batches come from the iterator used in training, which sends them to the devices, and nothing else runs. Without --corpus,
random DNA is used.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dnabert2_jax.config.model import named_size
from dnabert2_jax.config.sections import MaskingConfig, MeshOptions
from dnabert2_jax.data.masking import mask_rows
from dnabert2_jax.data.pretraining import PretrainingRows, training_batches
from dnabert2_jax.genome import Corpus, SpeciesSource, build_corpus
from dnabert2_jax.modeling.flops import training_flops_per_token
from dnabert2_jax.parallel.feeding import SentBatch
from dnabert2_jax.parallel.layout import Layout
from dnabert2_jax.parallel.mesh import make_mesh
from dnabert2_jax.platform import peak_flops
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.training import sample_corpus, train_bpe
from dnabert2_jax.types import MlmBatch


def resident_mb() -> float:
    """Current memory of this process (Linux), excluding mapped file pages."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


def random_inputs(directory: Path) -> tuple[Corpus, Tokenizer]:
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 4_000_000).tobytes().decode()
    (directory / "x.fa").write_text(f">c\n{letters}\n")
    corpus = build_corpus([SpeciesSource("random", [directory / "x.fa"])], directory / "corpus")
    return corpus, train_bpe(sample_corpus(corpus, sample_bases=1_000_000, window_bases=1000, seed=0), vocab_size=1024)


def rows_taken(tokenizer: Tokenizer, masking: MaskingConfig, tokens: int) -> float:
    """Rows that eight H100 take per second as they train the 117M at an MFU of 0.40."""
    cost = tokens * training_flops_per_token(named_size("117m", tokenizer.vocab_size), tokens, masking.slots(tokens))
    return 8 * 0.40 * (peak_flops("NVIDIA H100 80GB HBM3") or 0) / cost


def every_device() -> Layout:
    """Rows spread over all devices of this process."""
    return Layout(make_mesh(MeshOptions()), {}, {})


def parts(rows: PretrainingRows, masking: MaskingConfig, batch: int, repeats: int = 8) -> dict[str, float]:
    """Microseconds of CPU time per row for each part of the work (including SentencePiece's own threads)."""
    seconds = dict.fromkeys(("windows", "tokenize", "mask", "whole", "send"), 0.0)
    layout = every_device()
    for repeat in range(repeats):
        records = np.arange(batch) + batch * (1000 + repeat)
        marks = [time.process_time()]
        windows = rows.windows.sequences(records)
        marks.append(time.process_time())
        rows._tokenizer.encode_raw_batch(windows)
        marks.append(time.process_time())
        whole = rows.batch(records)
        marks.append(time.process_time())
        mask_rows(whole.tokens, masking, seed=0, records=records, vocab_size=rows._tokenizer.vocab_size)
        marks.append(time.process_time())
        jax.block_until_ready(layout.send(whole, batch).table)
        marks.append(time.process_time())
        for name, began, ended in zip(("windows", "tokenize", "whole", "mask", "send"), marks, marks[1:], strict=False):
            seconds[name] += ended - began
    return {name: 1e6 * value / (repeats * batch) for name, value in seconds.items()}


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    if options.corpus:
        corpus, tokenizer = Corpus.open(options.corpus), Tokenizer.load(options.tokenizer)
    else:
        corpus, tokenizer = random_inputs(directory)
    masking = MaskingConfig()
    rows = PretrainingRows(corpus, tokenizer, tokens_per_row=options.tokens_per_row, masking=masking, seed=0)
    microseconds = parts(rows, masking, options.batch_size)

    layout = every_device()

    def send(batch: MlmBatch) -> tuple[int, SentBatch]:
        return int(np.count_nonzero(batch.tokens.segment_ids)), layout.send(batch, options.batch_size)

    batches = training_batches(rows, options.batch_size, 0, 10**9, finish=send)
    for _ in range(4):  # batches prepared before timing starts
        jax.block_until_ready(next(batches)[1].arrays())
    memory: list[float] = []
    began, tokens, made = time.perf_counter(), 0, 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    while True:
        real, sent = next(batches)
        sent.arrays()  # as a step does, on the thread that starts it
        tokens, made = tokens + real, made + options.batch_size
        seconds = time.perf_counter() - began
        if seconds >= options.seconds * (len(memory) + 1) / 10:
            memory.append(resident_mb())
        if seconds >= options.seconds:
            break
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {
        "devices": jax.device_count(),
        "rows_per_second": made / seconds,
        "rows_per_cpu_second": made / cpu,
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / cpu,
        "cores": os.cpu_count(),
        "cores_used": cpu / seconds,
        "rows_of_a_batch": options.batch_size,
        "window_bases": rows.windows.window_bases,
        "rows_taken": rows_taken(tokenizer, masking, options.tokens_per_row),
        "microseconds_a_row": microseconds,
        "memory_mb": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--tokens-per-row", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if bool(options.corpus) != bool(options.tokenizer):
        parser.error("give --corpus and --tokenizer, or neither")
    with tempfile.TemporaryDirectory() as directory:
        result = measure(options, Path(directory))
    print(f"{result['tokens_per_second']:,.0f} real tokens/s on {result['cores_used']:.2f} of {result['cores']} cores")
    print(f"{result['tokens_per_cpu_second']:,.0f} tokens per second of CPU time")
    print(f"{result['rows_per_second']:,.0f} rows/s to {result['devices']} devices")
    print(f"{result['rows_per_cpu_second']:,.0f} rows per second of CPU time")
    print(f"{result['rows_taken']:,.0f} rows/s are what eight H100 take for the 117M at an MFU of 0.40")
    print("microseconds per row:", ", ".join(f"{name} {value:.1f}" for name, value in result["microseconds_a_row"].items()))
    print("memory in MB, ten samples:", " ".join(f"{value:.0f}" for value in result["memory_mb"]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
