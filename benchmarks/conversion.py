"""Time and peak memory of `dnabert2 convert` on directories with random weights, each call in its own process.

    python benchmarks/conversion.py [--size 117m] [--directory DIR] [--json FILE]

A directory in the Hugging Face layout with a tokenizer of 4,096 pieces is created, once with model.safetensors and once with
pytorch_model.bin (the zip format of torch.save); the command reads each, and writes the first one back. Times include the
startup of Python and jax; peak memory is the maximum resident set size of the process, mapped file pages included.
"""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def make(size: str, directory: Path) -> None:
    """Create directories safetensors and pickle with the same random weights."""
    from safetensors.numpy import load_file

    from dnabert2_jax import sample_data
    from dnabert2_jax.artifacts.model import SavedModel
    from dnabert2_jax.config.model import named_size
    from dnabert2_jax.convert.hugging_face import save_hugging_face
    from dnabert2_jax.genome.fasta import read_fasta
    from dnabert2_jax.modeling.models import masked_lm
    from dnabert2_jax.tokenizer.training import train_bpe

    contigs = [record.sequence.decode() for path in sample_data.fasta_files().values() for record in read_fasta(path)]
    tokenizer = train_bpe(
        [contig[at : at + 4000] for contig in contigs for at in range(0, len(contig), 4000)], vocab_size=4096
    )
    config = named_size(size, tokenizer.vocab_size)
    model = SavedModel(kind="masked_lm", config=config, params=masked_lm(config).init(0), tokenizer=tokenizer)
    save_hugging_face(directory / "safetensors", model)
    shutil.copytree(directory / "safetensors", directory / "pickle", ignore=shutil.ignore_patterns("*.safetensors"))
    write_pickle(directory / "pickle" / "pytorch_model.bin", load_file(directory / "safetensors" / "model.safetensors"))


def write_pickle(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The bytes that torch.save writes for a state dict of float32 tensors."""

    def value(x: object) -> bytes:
        return pickle.dumps(x, 2)[2:-1]  # without the opcodes PROTO and STOP

    program = [b"\x80\x02}("]
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, tensor) in enumerate(tensors.items()):
            strides = tuple(stride // tensor.itemsize for stride in tensor.strides)
            identity = (value(str(number)), value("cpu"), value(tensor.size), b"tQ")
            storage = b"".join((b"(", value("storage"), b"ctorch\nFloatStorage\n", *identity))
            program += [value(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, value(0), value(tensor.shape)]
            program += [value(strides), b"\x89ccollections\nOrderedDict\n)RtR"]
            archive.writestr(f"pytorch_model/data/{number}", tensor.tobytes())
        archive.writestr("pytorch_model/data.pkl", b"".join([*program, b"u."]))
        archive.writestr("pytorch_model/version", b"3\n")


def measured(*words: str | Path) -> dict[str, float]:
    """Wall seconds, CPU seconds over all cores, and peak memory in GB of one command-line call."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dnabert2_jax", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"dnabert2 {' '.join(map(str, words))} ended with exit code {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * unit / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="117m")
    parser.add_argument("--directory", type=Path, help="where to write 3 GB temporarily (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        # In a separate process: a child's peak memory starts at that of the process it was forked from.
        maker = get_context("spawn").Process(target=make, args=(args.size, directory))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit("the directories could not be created")
        cases = {
            "from-hf, model.safetensors": ("from-hf", directory / "safetensors", directory / "model"),
            "from-hf, pytorch_model.bin": ("from-hf", directory / "pickle", directory / "model_of_pickle"),
            "to-hf": ("to-hf", directory / "model", directory / "back"),
        }
        results: list[dict[str, Any]] = [{"case": case, **measured("convert", *words)} for case, words in cases.items()]
        same = (directory / "back" / "model.safetensors").read_bytes() == (
            directory / "safetensors" / "model.safetensors"
        ).read_bytes()
    table = Table("dnabert2 convert", "s", "CPU s", "peak GB")
    for result in results:
        numbers = (f"{result['seconds']:.1f}", f"{result['cpu_seconds']:.1f}", f"{result['peak_gb']:.2f}")
        table.add_row(result["case"], *numbers)
    console = Console()
    console.print(f"{args.size}, random weights; round trip {'bitwise identical' if same else 'NOT IDENTICAL'}")
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps({"size": args.size, "bitwise": same, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
