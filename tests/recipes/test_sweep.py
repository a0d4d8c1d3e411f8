import json
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.loading import load_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.recipes.sweep import Choice, sweep
from tests.helpers import finetune_content, write_run
from tests.processes import start_cli, wait_until
from tests.recipes.helpers import tables

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")

SEARCH = ("optimizer.learning_rate=1e-4..1e-1:log", "training.batch_size=8,16")


@pytest.fixture(scope="module")
def config(home) -> Path:
    return write_run(home / "sweep.toml", "finetune", finetune_content(home / "base", tables(home), training={"epochs": 1}))


@pytest.fixture(scope="module")
def swept(home, config):
    return sweep(config, ["seed=3"], [Choice.parse(text) for text in SEARCH], home / "sweep", trials=2)


def test_each_trial_is_a_run_and_the_best_dev_score_is_the_runs_to_repeat(home, swept):
    assert [trial.number for trial in swept.trials] == [0, 1]
    for trial in swept.trials:
        run = json.loads((home / "sweep" / "trials" / f"{trial.number:03d}" / "run.json").read_text())
        assert run["seed"] == 3
        assert run["optimizer"]["learning_rate"] == float(trial.settings["optimizer.learning_rate"])
        assert 1e-4 <= run["optimizer"]["learning_rate"] <= 1e-1
        assert str(run["training"]["batch_size"]) == trial.settings["training.batch_size"]
    assert len({trial.settings["optimizer.learning_rate"] for trial in swept.trials}) == 2
    best = swept.trials[swept.best]
    assert best.dev["mcc"] == max(trial.dev["mcc"] for trial in swept.trials) == swept.ranked[0].dev["mcc"]
    run = load_run(FinetuneRun, home / "sweep" / "best.toml")
    trained = json.loads((home / "sweep" / "trials" / f"{best.number:03d}" / "run.json").read_text())
    assert run_to_dict(run) == trained


def test_the_best_trials_model_is_kept_and_a_page_is_written(home, swept):
    kept = sorted(path.parent.name for path in (home / "sweep" / "trials").glob("*/model"))
    assert kept == [f"{swept.best:03d}"]
    assert load_model(home / "sweep" / "trials" / kept[0] / "model").labels == ("plain", "rich")
    page = (home / "sweep" / "sweep.html").read_text()
    for trial in swept.trials:
        assert trial.settings["optimizer.learning_rate"] in page
        assert f"{trial.dev['mcc']:.4f}" in page


def test_the_command_prints_whole_names_into_a_pipe(home, config, swept, capsys):
    from dnabert2_jax.cli.sweep import sweep as command

    command(home / "sweep", list(SEARCH), config, ["seed=3"], trials=2)  # there are as many already
    printed = capsys.readouterr().out
    for name in ("optimizer.learning_rate", "training.batch_size", "dev MCC", "test MCC", "seconds"):
        assert name in printed


def test_more_trials_go_on_and_other_settings_are_refused(home, config, swept):
    choices = [Choice.parse(text) for text in SEARCH]
    again = sweep(config, ["seed=3"], choices, home / "sweep", trials=3)
    assert again.trials[:2] == swept.trials
    assert again.trials[2].settings not in [trial.settings for trial in swept.trials]
    with pytest.raises(UserError, match=r"holds a sweep with other settings \(seed\)"):
        sweep(config, ["seed=4"], choices, home / "sweep", trials=4)
    with pytest.raises(UserError, match=r"other settings \(search\)"):
        sweep(config, ["seed=3"], choices[:1], home / "sweep", trials=4)


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(config, tmp_path):
    found = sweep(config, [], [Choice.parse("model.attention=reference,nonsense")], tmp_path / "sweep", trials=3)
    failed = [trial for trial in found.trials if trial.error]
    assert {trial.settings["model.attention"] for trial in failed} == {"nonsense"}
    assert len(failed) + len(found.ranked) == 3
    assert "nonsense" in (tmp_path / "sweep" / "sweep.html").read_text()
    with pytest.raises(UserError, match="every trial failed; the last one: "):
        sweep(config, [], [Choice.parse("model.attention=nonsense,nothing")], tmp_path / "none", trials=1)


@pytest.mark.slow
def test_a_sweep_that_was_killed_resumes_in_the_middle_of_a_trial(config, tmp_path):
    command = ["sweep", "--config", config, "--workdir", tmp_path / "killed", "--trials", 2]
    command += ["--search", SEARCH[0], "--set", "training.epochs=20"]
    process = start_cli(*command)
    checkpoints = tmp_path / "killed" / "trials" / "000" / "checkpoints"
    wait_until(process, lambda: len(list(checkpoints.glob("step_*/manifest.json"))) > 0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = start_cli(*command)
    out, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert "resuming from step" in errors
    assert out.splitlines()[-1] == f"saved {tmp_path / 'killed' / 'best.toml'}"
    assert len(list((tmp_path / "killed" / "trials").glob("*/scores.json"))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.rank", "accepted is KEY=LOW..HIGH"),
        ("lora.rank=8..4", "the first number must be smaller"),
        ("optimizer.learning_rate=0..1:log", "and above 0"),
    ],
)
def test_ranges_that_are_none(text, message):
    with pytest.raises(UserError, match=message):
        Choice.parse(text)


@given(st.floats(1e-8, 1e3), st.floats(1.1, 1e3), st.booleans())
def test_a_range_is_read_as_it_is_written(low, factor, log):
    choice = Choice.parse(f"optimizer.learning_rate={low!r}..{low * factor!r}{':log' * log}")
    assert (choice.low, choice.high, choice.log) == (low, low * factor, log)


@pytest.mark.parametrize(
    ("search", "overrides", "message"),
    [
        (["optimizer.learning_rat=1e-4..1e-3"], [], r"^--search: unknown key optimizer\.learning_rat \(did you mean"),
        (["optimizer.learning_rat=1e-4..1e-3"], ["seed=3"], "^--set or --search: unknown key optimizer.learning_rat"),
        (["lora.rank=2,4", "lora.rank=8,16"], [], r"lora\.rank is given twice"),
        (["lora.rank=2,4"], ["lora.rank=8"], r"lora\.rank is given twice"),
    ],
)
def test_searches_that_make_no_sense_leave_no_directory(config, tmp_path, search, overrides, message):
    with pytest.raises(UserError, match=message):
        sweep(config, overrides, [Choice.parse(text) for text in search], tmp_path / "sweep", trials=1)
    assert not (tmp_path / "sweep").exists()
