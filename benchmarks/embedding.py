"""Speed of embedding sequences of mixed lengths, in real tokens/s: packed, sorted by length, and in file order.

    python benchmarks/embedding.py [FASTA] [--size 1m | --model DIR] [--sequences 2000] [--torch PYTHON] [--json FILE]

Sequences of 100 to 3,000 bases are cut from the FASTA file, or from the package's sample data. "in file order" pads each
batch of --rows rows to its longest row, as a plain loop would; "sorted" does the same after sorting by length; "packed" is
what `dnabert2 embed` does. All three round widths up the same way and run the same jitted function. The first round of each
includes compilation; then they alternate, --repeats times, and the best round is reported. With --torch, an interpreter with
torch and multimolecule, PyTorch takes its turn with an encoder of the same size on the batches in file order, in float32.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from dnabert2_jax import sample_data
from dnabert2_jax.config.model import NAMED_SIZES, EncoderConfig, PrecisionOption, named_size
from dnabert2_jax.data.batches import Batches, BatchPlan
from dnabert2_jax.data.encoding import EncodedRows, encode_sequences
from dnabert2_jax.data.packing import pack, padded_width, slots_of_row
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward, Predictor, default_batch_tokens
from dnabert2_jax.modeling.compute import resolve_compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.tokenizer.training import train_bpe

FILE_ORDER, PYTORCH = "in file order", "PyTorch, in file order"


def cut_sequences(fasta: list[Path], count: int, shortest: int, longest: int) -> list[str]:
    contigs = [record.sequence.decode().upper() for path in fasta for record in read_fasta(path)]
    contigs = [contig for contig in contigs if len(contig) > longest]
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest + 1, count)
    chosen = [contigs[n] for n in rng.integers(len(contigs), size=count)]
    starts = [rng.integers(len(contig) - length) for contig, length in zip(chosen, lengths, strict=True)]
    return [contig[at : at + n] for contig, at, n in zip(chosen, starts, lengths, strict=True)]


def padded(rows: EncodedRows, order: np.ndarray, rows_per_batch: int) -> Batches:
    """One sequence per row, each batch as wide as its longest row."""
    plan = []
    for at in range(0, len(order), rows_per_batch):
        some = order[at : at + rows_per_batch]
        width = padded_width(int(rows.lengths[some].max()))
        plan.append(BatchPlan(width, rows_per_batch, some[:, None], slots_of_row(width)))
    return Batches(rows, plan)


@contextmanager
def torch_process(python: Path, config: EncoderConfig, batches: Batches) -> Iterator[Callable[[], float]]:
    """A function that has PyTorch embed the batches once, in its own process, and returns the seconds."""
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
    }
    worker = Path(__file__).with_name("embedding_torch.py")
    with tempfile.NamedTemporaryFile(suffix=".npz") as stored:
        np.savez(stored, *[batch.tokens.input_ids for batch in batches])
        stored.flush()
        command: list[str | Path] = [python, worker, stored.name, json.dumps(sizes)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            said, heard = process.stdin, process.stdout
            assert said is not None
            assert heard is not None

            def seconds() -> float:
                print("go", file=said, flush=True)
                return float(heard.readline())

            yield seconds
            said.close()


def random_model(size: str, sequences: list[str], precision: PrecisionOption) -> InferenceModel:
    tokenizer = train_bpe(sequences, vocab_size=4096)
    config = named_size(size, tokenizer.vocab_size)
    params = masked_lm(config).init(0)
    predictor = Predictor(Forward(config, resolve_compute(precision)), params)
    return InferenceModel(Path(size), "masked_lm", tokenizer, (), predictor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="?", type=Path)
    parser.add_argument("--model", type=Path, help="model directory (default: random weights of --size)")
    parser.add_argument("--size", choices=list(NAMED_SIZES), default="1m")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--bases", type=int, nargs=2, default=[100, 3000], metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--rows", type=int, default=8, help="rows per padded batch")
    parser.add_argument("--batch-tokens", type=int, help="tokens per packed batch")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--torch", type=Path, metavar="PYTHON", help="interpreter with torch and multimolecule")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    fasta = [args.fasta] if args.fasta else list(sample_data.fasta_files().values())
    sequences = cut_sequences(fasta, args.sequences, *args.bases)
    if args.model:
        model = InferenceModel.load(args.model, resolve_compute(args.precision))
    else:
        model = random_model(args.size, sequences, args.precision)
    rows = encode_sequences(given_sequences(sequences), model.tokenizer)
    lengths = rows.lengths
    ways = {
        "packed": pack(rows, args.batch_tokens or default_batch_tokens()),
        "sorted": padded(rows, np.argsort(lengths, kind="stable"), args.rows),
        FILE_ORDER: padded(rows, np.arange(len(rows)), args.rows),
    }

    # A separate model for each variant, so that none reuses functions compiled by another.
    forward, params = model.predictor.forward, model.predictor.params
    predictors = {way: Predictor(replace(forward), params) for way in ways}

    def seconds(way: str) -> float:
        start = time.perf_counter()
        predictors[way].pooled(ways[way], "mean")
        return time.perf_counter() - start

    with ExitStack() as stack:
        run_once: dict[str, Callable[[], float]] = {way: partial(seconds, way) for way in ways}
        if args.torch:
            ways[PYTORCH] = ways[FILE_ORDER]
            run_once[PYTORCH] = stack.enter_context(torch_process(args.torch, model.config, ways[FILE_ORDER]))
        first_round = {way: once() for way, once in run_once.items()}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, once in run_once.items():
                times[way].append(once())

    table = Table("batches", "real tokens/s", "ratio to the last", "padding", "shapes", "first, s", "best, s")
    results = []
    slowest = min(times[list(ways)[-1]])
    for way, batches in ways.items():
        best = min(times[way])
        result = {
            "batches": way,
            "tokens_per_s": batches.real_tokens / best,
            "ratio": slowest / best,
            "padding_share": batches.padding_share,
            "shapes": len(batches.shapes),
            "first_round_s": first_round[way],
            "seconds": times[way],
        }
        results.append(result)
        speeds = f"{result['tokens_per_s']:,.0f}", f"{result['ratio']:.2f}x"
        shapes = f"{result['padding_share']:.1%}", str(result["shapes"])
        table.add_row(way, *speeds, *shapes, f"{first_round[way]:.1f}", f"{best:.1f}")
    console = Console()
    console.print(
        f"{len(rows):,} sequences of {args.bases[0]:,} to {args.bases[1]:,} bases, {lengths.sum():,} tokens; "
        f"{model.path}, {forward.compute.precision}, {jax.default_backend()}"
    )
    console.print(table)
    if args.json:
        about = {"model": str(model.path), "precision": forward.compute.precision, "platform": jax.default_backend()}
        args.json.write_text(json.dumps({**about, "tokens": int(lengths.sum()), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
