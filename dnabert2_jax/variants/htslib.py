"""pysam, an optional extra of this package: indexed FASTA, BCF, BGZF and tabix indexes."""

import importlib
from typing import Any

from dnabert2_jax.errors import UserError


def pysam() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        importlib.import_module("pysam.bcftools")
        return importlib.import_module("pysam")
    except ImportError as error:
        raise UserError(
            'variants need the package pysam, which is not installed; run pip install "dnabert2_jax[genome]"'
        ) from error
