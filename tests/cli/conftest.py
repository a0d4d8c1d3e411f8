"""What the tests of commands share: the command line in this process, and models to work on."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.adapters import merged
from dnabert2_jax.cli import main
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.model_directory import (
    SavedAdapter,
    SavedModel,
    make_provenance,
    save_adapter,
    save_model,
)
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from tests.helpers import (
    CLASSES,
    finetune_content,
    tiny_model,
    write_run,
)


@pytest.fixture
def dnabert2(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dnabert2", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        return ended.value.code or 0, out, errors

    return run


@pytest.fixture
def refused(dnabert2):
    """Runs a command that must end with exit code 2 and one line that holds some words; returns what it printed before."""

    def run(*arguments: object, words: tuple[str, ...]) -> str:
        code, out, errors = dnabert2(*arguments)
        message = errors.splitlines()[-1]
        assert code == 2
        assert message.startswith("dnabert2: ")
        for word in words:
            assert word in message
        return out

    return run


def make_adapter(path: Path, base: SavedModel, seed: int, rank: int = 2) -> SavedAdapter:
    """An adapter with random matrices, B included, and random heads."""
    lora = LoraConfig(rank=rank, alpha=4.0, dropout=0.0)
    adapter = init_adapter(base.config, lora, seed)
    rng = np.random.default_rng(seed)
    for pair in adapter.values():
        pair["B"] = rng.normal(size=pair["B"].shape, scale=0.05).astype(np.float32)
    # Weights as large as trained ones, so that rows differ.
    heads = jax.tree.map(lambda x: 20 * np.asarray(x), sequence_classifier(base.config, len(CLASSES)).init(seed))
    params = {"adapter": adapter, "pooler": heads["pooler"], "classifier": heads["classifier"]}
    provenance = make_provenance(["test"], run_config={"seed": seed}, parents={}, metrics={"dev": {"mcc": 0.5}})
    return save_adapter(path, SavedAdapter(base=base, params=params, lora=lora, labels=CLASSES, provenance=provenance))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base with two adapters, and one of them merged."""
    folder = tmp_path_factory.mktemp("manage")
    base = tiny_model(folder / "base")
    adapter = make_adapter(folder / "runs" / "first" / "adapter", base, 1)
    make_adapter(folder / "runs" / "second" / "adapter", base, 2, rank=3)
    save_model(folder / "merged", merged(adapter))
    return folder


@pytest.fixture
def run_file(tmp_path) -> Path:
    data = {split: f"{split}.csv" for split in ("train", "dev", "test")}
    return write_run(tmp_path / "run.toml", "finetune", finetune_content(Path("base"), data))
