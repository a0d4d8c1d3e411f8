"""What the tests of fine-tuning share: a base, a task, and runs from one on the other."""

from pathlib import Path

import jax
import pytest

from tests.helpers import finetune_run, tiny_model, tiny_task
from tests.recipes.helpers import tables


@pytest.fixture(scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def undrawn():
    """Reports take seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finetuning")
    tiny_model(path / "base")
    tiny_task(path)
    return path


@pytest.fixture(scope="module")
def make_run(home):
    return lambda **changes: finetune_run(home / "base", tables(home), **changes)
