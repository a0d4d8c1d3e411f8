import re

import jax
import jax.numpy as jnp
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.training import memory
from dnabert2_jax.training.memory import check_memory, explain_memory
from tests.helpers import pretrain_run, tiny_corpus, tiny_model


@pytest.fixture
def step():
    return jax.jit(lambda x: (jnp.tanh(x @ x) + x, (x @ x.T).sum()), donate_argnums=0)


@pytest.fixture
def x():
    return jnp.ones((256, 256))


def test_a_step_that_fits_is_compiled_once_and_nothing_is_said(step, x, capsys):
    compiled = []
    listener = lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None  # noqa: E731
    x = jax.block_until_ready(x)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        check_memory(step, x, rows=8, accumulate=1)
        assert len(compiled) == 1
        jax.block_until_ready(step(x))
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not capsys.readouterr().err


def test_a_step_that_cannot_fit_is_refused_with_the_numbers(step, x, monkeypatch):
    monkeypatch.setattr(memory, "_host_memory", lambda: (100_000, 50_000))
    with pytest.raises(UserError) as error:
        check_memory(step, x, rows=4096, accumulate=2)
    told = re.search(
        r"a step of 4,096 rows needs (.*) GiB besides the weights, but the cpu has (.*) GiB for it; raise", str(error.value)
    )
    assert told
    assert "training.accumulate (now 2" in str(error.value)


def test_a_step_that_fits_only_once_others_end_is_warned_of(step, x, monkeypatch, capsys):
    monkeypatch.setattr(memory, "_host_memory", lambda: (10**9, 50_000))
    check_memory(step, x, rows=4096, accumulate=1)
    assert "warning: a step of 4,096 rows needs" in capsys.readouterr().err


def test_a_system_that_does_not_tell_is_not_judged(step, x, monkeypatch):
    monkeypatch.setattr(memory, "_host_memory", lambda: (None, None))
    check_memory(step, x, rows=8, accumulate=1)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    limit, _ = memory._host_memory()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "unlimited").write_text("max\n")
    monkeypatch.setattr(memory, "_GROUP_LIMITS", (str(tmp_path / "unlimited"), str(tmp_path / "memory.max"), "/no/such"))
    assert memory._host_memory()[0] < 1_000_000 < limit


def test_a_compiler_that_runs_out_of_memory_is_explained():
    said = r"out of memory on the cpu device \(RESOURCE_EXHAUSTED.*raise training\.accumulate"
    with pytest.raises(UserError, match=said), explain_memory(8, 1):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3G of 2G\nmore")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explain_memory(8, 1):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")


def test_a_pretraining_batch_that_cannot_fit_leaves_a_directory_for_a_smaller_one(tmp_path, monkeypatch):
    from dnabert2_jax.recipes.pretraining import pretrain

    tiny_model(tmp_path / "base")
    corpus = tiny_corpus(tmp_path)
    monkeypatch.setattr(memory, "_host_memory", lambda: (1000, 1000))
    with jax.numpy_dtype_promotion("standard"):
        with pytest.raises(UserError, match="a step of 8 rows needs"):
            pretrain(pretrain_run(tmp_path / "base", corpus.path), tmp_path / "run")
        monkeypatch.undo()
        monkeypatch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
        steps = {"steps": 2, "batch_size": 4, "evaluate_every": 2, "save_every": 2}
        pretrain(pretrain_run(tmp_path / "base", corpus.path, training=steps), tmp_path / "run")
    assert (tmp_path / "run" / "model").is_dir()
