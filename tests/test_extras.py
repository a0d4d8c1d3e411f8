"""Optional packages: the package, or a line that says how to get it."""

import math
import sys

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.extras import optional_package


def test_what_is_installed_is_imported():
    assert optional_package("math", "sums need", "math") is math


def test_what_is_not_installed_is_named_with_its_extra_and_the_way_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(UserError) as error:
        optional_package("pysam", "BCF needs", "dnabert2_jax[genome]", otherwise="use VCF")
    assert str(error.value) == (
        'BCF needs the package pysam, which is not installed; run pip install "dnabert2_jax[genome]", or use VCF'
    )
    with pytest.raises(UserError, match=r"which is not installed; run pip install pandas$"):
        optional_package("pandas_that_nobody_has", "tables need", "pandas")
