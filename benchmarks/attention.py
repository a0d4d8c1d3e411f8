"""Attention benchmarks, one target per call.

    python benchmarks/attention.py --target TARGET [--json FILE] [options of the target; -h after the target lists them]

    cpu      time and peak memory of `blocked` vs. dense attention, in XLA and in PyTorch, on this machine
    gpu-memory  memory of a training step of the 117M model on an H100 by length; needs jax's CUDA plugin, but no GPU
    gpu      TFLOP/s of the fused kernels on the local GPU vs. cuDNN with the dense bias, XLA and PyTorch's FlexAttention
    shares   the score bound S of a trained model, and the fraction of key blocks left to visit after skipping
    tpu      modeled cycles of `pallas_tpu` on a TPU v5e vs. jax's flash_attention; needs libtpu, but no TPU

A target is a module attention_TARGET.py next to this file with a function `measure(arguments) -> results`, which prints its
tables and returns what --json writes.
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

TARGETS = ("cpu", "gpu", "gpu-memory", "shares", "tpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False, allow_abbrev=False
    )
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--json", type=Path)
    args, others = parser.parse_known_args()
    if args.target is None:
        parser.print_help()
        raise SystemExit(0 if {"-h", "--help"} & set(others) else 2)
    results = import_module(f"attention_{args.target.replace('-', '_')}").measure(others)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
