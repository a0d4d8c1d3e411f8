import subprocess
import sys

import pytest

import dnabert2_jax

JAX = ("jax", "flax", "optax")
HEAVY = ("grain", "matplotlib", "pandas", "scipy.stats", "sklearn")  # each takes as long to import as jax, or half as long

CONFIG = ("dnabert2_jax.config.corpus", "dnabert2_jax.config.inference", "dnabert2_jax.config.loading")
PRETRAINING = ("dnabert2_jax.recipes.pretraining",)


def heavy_modules(imported: tuple[str, ...]) -> set[str]:
    """What of the above a process has loaded when it has imported these modules."""
    code = f"import sys, {', '.join(imported)}; print(*sorted(sys.modules.keys() & set(sys.argv[1:])))"
    done = subprocess.run([sys.executable, "-c", code, *JAX, *HEAVY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("imported", "loaded"),
    [
        pytest.param(CONFIG, set(), id="config"),
        pytest.param(("dnabert2_jax.api",), set(JAX), id="api"),
        pytest.param(PRETRAINING, {*JAX, "grain", "matplotlib"}, id="pretraining"),
    ],
)
def test_a_command_starts_without_libraries_that_it_does_not_need(imported, loaded):
    assert heavy_modules(imported) == loaded


@pytest.mark.parametrize("name", dnabert2_jax.__all__)
def test_public_names_are_found_where_the_package_says(name):
    assert getattr(dnabert2_jax, name) is not None
