"""pysam, an optional package: indexed FASTA, BCF, BGZF and their indexes, read and written by htslib."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dnabert2_jax.extras import optional_package


def pysam() -> Any:
    """The pysam package.

    Raises:
        UserError: it is not installed.
    """
    package = optional_package("pysam", "FASTA read by position, BCF and BGZF need", "dnabert2_jax[genome]")
    optional_package("pysam.bcftools", "BCF needs", "dnabert2_jax[genome]")  # pysam does not import it itself
    return package


@contextmanager
def quiet_pysam(package: Any = None) -> Iterator[Any]:
    """The pysam package with htslib's messages silenced, because our error messages replace them.

    Args:
        package: pysam, where it has been imported already.

    Raises:
        UserError: it is not installed.
    """
    package = package or pysam()
    before = package.set_verbosity(0)
    try:
        yield package
    finally:
        package.set_verbosity(before)
