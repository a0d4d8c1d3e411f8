"""Deviation of outputs, loss and gradients from PyTorch: the cases of tests/modeling/test_parity.py as a table.

    python benchmarks/parity.py [--shared DIR] [--json FILE]

Each number is the maximum error over a tensor relative to its largest magnitude; for the gradients, that of the worst
tensor. The cases heads8 and heads12 were computed by multimolecule in float64. With --shared, a directory with outputs of
the original code, those are compared as well. TPU kernels run in the Pallas interpreter.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnabert2_jax.errors import UserError
from dnabert2_jax.kernels.attention import BACKENDS
from tests.modeling.reference import COMMITTED, ORIGINAL, load_case

OUTPUTS = ("hidden", "mlm_logits", "pooled", "class_logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    results = []
    for name in COMMITTED + (ORIGINAL if args.shared else ()):
        case = load_case(name, args.shared or Path())
        for backend in BACKENDS:
            try:
                for precision in ("float32", "bfloat16"):
                    worst = dict.fromkeys(OUTPUTS, 0.0)
                    for _, output, error in case.output_errors(backend, precision):
                        worst[output] = max(worst[output], error)
                    result: dict[str, Any] = {"case": name, "backend": backend, "precision": precision, **worst}
                    if precision == "float32":
                        loss, gradients = case.gradient_errors(backend)
                        result |= {"loss": loss, "gradients": max(gradients.values())}
                    results.append(result)
            except UserError as error:
                print(f"{name}: {backend} does not serve here: {error}")
    columns = (*OUTPUTS, "loss", "gradients")
    table = Table("case", "attention", "precision", *columns)
    for result in results:
        numbers = [f"{result[column]:.1e}" if column in result else "" for column in columns]
        table.add_row(result["case"], result["backend"], result["precision"], *numbers)
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
