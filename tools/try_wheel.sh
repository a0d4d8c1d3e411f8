#!/usr/bin/env bash
# Install a wheel into its own environment, outside the checkout, and check that it is complete; with uv, if its path is given:
#     tools/try_wheel.sh PYTHON WHEEL [UV]
set -euo pipefail

wheel=$(realpath "$2")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$1" -m venv "$place/venv"
"${3:-false}" pip install --quiet --python "$place/venv/bin/python" "$wheel" ||
    "$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
cd "$place"
venv/bin/dnabert2 --help > /dev/null
venv/bin/python - <<'PYTHON'
from importlib.util import find_spec

from dnabert2_jax import DNABERT2, sample_data
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.genome.fasta import read_fasta
from dnabert2_jax.models import SHIPPED
from dnabert2_jax.reports.page import Page

assert "site-packages" in find_spec("dnabert2_jax").origin, "the checkout was imported, not the wheel"
splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
bases = sum(len(record.sequence) for path in sample_data.fasta_files().values() for record in read_fasta(path))
assert Page("title", "subtitle", []).html().startswith("<!doctype html>")  # the templates are included
for name in SHIPPED:
    assert DNABERT2.load(name).embed(["ACGTTTGACA"]).shape == (1, 128)
print(f"the wheel holds {bases:,} bases and {len(splits.train):,} training rows of sample data")
PYTHON
