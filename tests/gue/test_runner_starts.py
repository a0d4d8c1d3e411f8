"""Where the runs of a benchmark start: from a model, or from random weights."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest

from dnabert2_jax.artifacts.adapter import SavedAdapter, save_adapter
from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.config.loading import load_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.runner import GueRun, run_gue
from dnabert2_jax.modeling.lora import init_adapter
from tests.gue.helpers import SETTINGS, benchmark, page_of, record
from tests.helpers import finetune_run, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("promotion", "no_pictures")


def test_random_weights_are_a_start_like_any_other(home, train):
    trainer = train()
    tiny_tokenizer().save(home / "tokenizer")
    scratch = benchmark(home, "scratch", model=None, size="1m", tokenizer=home / "tokenizer", seeds=2)
    run_gue(scratch)
    assert trainer.seeds == [0, 1]
    settings = record(home / "scratch", "tf/0", "seed_1")["attempts"][0]["run"]
    assert (settings["model"]["path"], settings["model"]["size"]) == (None, "1m")
    assert settings["model"]["tokenizer"] == str(home / "tokenizer")
    assert "model 1m from random weights" in page_of(home / "scratch")
    again = load_run(FinetuneRun, home / "scratch" / "tasks" / "tf" / "0" / "seed_1.toml", SETTINGS)
    assert run_to_dict(again) == settings
    with pytest.raises(UserError, match="model was '1m from random weights' and is now"):
        run_gue(benchmark(home, "scratch"))
    with pytest.raises(UserError, match=r"training\.method lora needs model\.path"):
        run_gue(replace(scratch, workdir=home / "never", overrides=("training.method=lora",)))
    with pytest.raises(UserError, match=r"model size '117n' is unknown; .*did you mean '117m'"):
        run_gue(replace(scratch, workdir=home / "never", size="117n"))
    assert not (home / "never").exists()


@pytest.mark.parametrize("start", [{"model": Path("small")}, {"model": None, "size": "1m", "tokenizer": Path("small")}])
def test_a_model_that_ships_is_a_start_by_its_name(home, train, start):
    train()
    run_gue(benchmark(home, f"shipped_{len(start)}", **start))
    model = record(home / f"shipped_{len(start)}", "tf/0")["attempts"][0]["run"]["model"]
    assert "small" in (model["path"], model["tokenizer"])


@pytest.mark.parametrize(
    "start",
    [{}, {"size": "1m"}, {"tokenizer": Path("t")}, {"model": Path("m"), "size": "1m", "tokenizer": Path("t")}],
    ids=["nothing", "a size alone", "a tokenizer alone", "both"],
)
def test_there_is_one_start(home, start):
    with pytest.raises(UserError, match=r"give either --model .*, or --size and --tokenizer to start from random weights"):
        run_gue(GueRun(data=home / "GUE", workdir=home / "never", **start))


def test_an_adapter_is_no_model_to_start_from(home):
    base = load_model(home / "model")
    run = finetune_run(home / "model", dict.fromkeys(("train", "dev", "test"), "x.csv"))
    params = {"adapter": jax.device_get(init_adapter(base.config, run.lora, 0))}
    provenance = make_provenance(["test"], run_config={}, parents={}, metrics={})
    adapter = SavedAdapter(base=base, params=params, lora=run.lora, labels=("a", "b"), provenance=provenance)
    save_adapter(home / "adapter", adapter)
    with pytest.raises(UserError, match="is an adapter directory, but a model directory is needed here: merge the adapter"):
        run_gue(GueRun(data=home / "GUE", model=home / "adapter", workdir=home / "never"))
    assert not (home / "never").exists()


@pytest.mark.slow
def test_a_real_run_from_random_weights(home):
    tiny_tokenizer().save(home / "tokenizer")
    options = {"model": None, "size": "1m", "tokenizer": home / "tokenizer", "overrides": (*SETTINGS, "training.epochs=1")}
    run_gue(benchmark(home, "from_scratch", **options))
    attempt = record(home / "from_scratch", "tf/0")["attempts"][-1]
    assert attempt["trained_parameters"] > 500_000
    assert 0 < attempt["first_step_seconds"] < attempt["seconds"]
