"""What the tests of conversion share: the command line in this process, and how fine-tuning has jax set."""

import jax
import pytest

from dnabert2_jax.cli import main


@pytest.fixture
def dnabert2(monkeypatch, capsys):
    """The command line, in this process: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["dnabert2", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
