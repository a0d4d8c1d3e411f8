"""When a run is evaluated, when it ends, and which evaluation is kept."""

import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.config.runs import Epochs
from dnabert2_jax.recipes.finetuned import Finetuned
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.finetuning_steps import evaluation_steps
from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import with_sections
from tests.recipes.helpers import dev_mccs, score

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


COLLAPSES = {
    # A warm-up as long as the run: the rate only rises, and the last evaluations see what it destroyed.
    "optimizer": {"learning_rate": 0.1, "warmup_steps": 1000},
    "training": {"epochs": 12, "patience": 3},
}


@pytest.fixture(scope="module")
def collapsed(home, make_run) -> Finetuned:
    return finetune(make_run(**COLLAPSES), home / "collapsed")


def test_a_run_that_gets_worse_stops_early_and_keeps_its_best(home, collapsed):
    mccs = dev_mccs(home / "collapsed")
    steps = list(mccs)
    assert steps[-1] < 72
    assert len(steps) - 1 - steps.index(collapsed.best_step) == 3  # evaluations without a better one
    assert mccs[steps[-1]] < mccs[collapsed.best_step] == collapsed.dev["mcc"] == max(mccs.values())
    _, dev = score(collapsed.model, home / "dev.csv")
    assert dev["confusion_matrix"] == collapsed.dev["confusion_matrix"]
    assert dev["mcc"] > mccs[steps[-1]]


def test_a_run_that_stopped_early_is_finished(home, collapsed, make_run, tmp_path):
    shutil.copytree(home / "collapsed", tmp_path / "run")
    again = finetune(make_run(**COLLAPSES), tmp_path / "run")
    assert again.test == collapsed.test
    assert again.best_step == collapsed.best_step
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (home / "collapsed" / "metrics.jsonl").read_bytes()


def test_by_loss_the_evaluation_of_lowest_dev_loss_is_kept(home, make_run):
    result = finetune(make_run(**with_sections(COLLAPSES, {"training": {"selection": "loss"}})), home / "by_loss")
    losses = {line["step"]: line["dev_loss"] for line in MetricsLog.read(home / "by_loss") if "dev_loss" in line}
    assert result.dev["loss"] == min(losses.values()) == losses[result.best_step]
    assert result.best_step < max(losses)
    assert len(losses) - 1 - list(losses).index(result.best_step) == 3  # patience


def test_a_run_is_evaluated_several_times_an_epoch_but_never_twice_a_step(tmp_path, make_run):
    many = {"training": {"evaluations_per_epoch": 9, "patience": 4}}
    finetune(make_run(**many), tmp_path / "run")
    steps = list(dev_mccs(tmp_path / "run"))
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 5


@pytest.mark.parametrize(
    ("steps_per_epoch", "training", "expected"),
    [
        (6, {"epochs": 2}, [6, 12]),
        (6, {"epochs": 2, "max_steps": 8}, [6, 8]),
        (6, {"epochs": 2, "max_steps": 20}, [6, 12, 18, 20]),
        (100, {"max_steps": 30}, [30]),
        (100, {"max_steps": 60, "evaluations_per_epoch": 4}, [25, 50, 60]),
        (1, {"max_steps": 3, "evaluations_per_epoch": 2}, [1, 2, 3]),
    ],
)
def test_evaluations_end_with_the_run(steps_per_epoch, training, expected):
    assert evaluation_steps(Epochs(**training), steps_per_epoch) == expected


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 100))
def test_evaluations_are_in_order_whatever_the_length(steps_per_epoch, per_epoch, max_steps):
    steps = evaluation_steps(Epochs(max_steps=max_steps, evaluations_per_epoch=per_epoch), steps_per_epoch)
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == max_steps
    assert max(np.diff([0, *steps])) <= -(-steps_per_epoch // per_epoch) + 1


@pytest.mark.parametrize("batching", ["by_length", "packed"])
def test_a_run_of_so_many_steps_ends_there_with_its_schedule(home, make_run, tmp_path, batching):
    """Eight steps are a whole epoch of six and two of the next one."""
    result = finetune(make_run(training={"epochs": 1, "max_steps": 8, "batching": batching}), tmp_path / "run")
    assert list(dev_mccs(tmp_path / "run")) == [6, 8]
    assert result.best_step in (6, 8)
    rates = {line["step"]: line["learning_rate"] for line in MetricsLog.read(tmp_path / "run") if "learning_rate" in line}
    assert rates[8] == pytest.approx(1e-2 / 6)  # the last of six steps down to zero, after two of warm-up


def test_packed_rows_learn_and_a_finished_run_stays_finished(home, make_run, tmp_path, capsys):
    packed = make_run(training={"batching": "packed"})
    result = finetune(packed, home / "packed")
    assert result.test["mcc"] > 0.6
    assert re.search(r"8 sequences packed into \d rows of", capsys.readouterr().err)
    assert result.first_step_seconds > 0
    shutil.copytree(home / "packed", tmp_path / "run")
    again = finetune(packed, tmp_path / "run")
    assert again.first_step_seconds is None  # nothing was left to do
    assert again.test == result.test
