"""A whole benchmark on tiny data: good data sets beside every kind of bad one.

What happens around the runs (failure, collapse, going on) is tested with a trainer that takes no time; training itself has
tests of its own, and test_runner_real.py does the same with real runs.
"""

import json
import shutil
from pathlib import Path

import pytest

from dnabert2_jax.config.loading import load_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.tables import read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.runner import GueRun, run_gue
from dnabert2_jax.model_directory import load_model
from dnabert2_jax.reports.sections import PREDICTIONS_FILE
from tests.gue.helpers import SETTINGS, benchmark, command, page_of, record
from tests.helpers import tiny_model, tiny_task

pytestmark = pytest.mark.usefixtures("promotion", "no_pictures")


@pytest.fixture(scope="module")
def whole(home) -> tuple[Path, str]:
    """Everything, good and bad; the directory and what was said at the end."""
    with pytest.raises(UserError) as error:
        run_gue(benchmark(home, "whole", tasks=()))
    return home / "whole", str(error.value)


def test_good_data_sets_are_run_though_others_are_bad(whole):
    workdir, _ = whole
    for task in ("tf/0", "My_promoters"):
        run = record(workdir, task)
        assert run["status"] == "done"
        assert run["test"]["mcc"] > 0.5
        assert run["collapsed_attempts"] == 0


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("mouse/0", "train.csv: all 1 rows have the label '0'; a classifier needs rows of at least two classes"),
        ("mouse/1", "train.csv, line 3: label 2 without a label 1; 2 classes are numbered 0 to 1"),
        ("mouse/2", "train.csv, line 2: label '0.5' is a number but not a class"),
        (
            "mouse/2",
            "data.task=regression to predict measurements (with `dnabert2 finetune`; the benchmark has classes only)",
        ),
    ],
    ids=["one row", "a gap", "measurements", "measurements are for another command"],
)
def test_a_bad_data_set_is_recorded_with_what_is_wrong(whole, task, said):
    workdir, _ = whole
    failed = record(workdir, task, "failed")
    assert said in failed["error"]
    assert failed["traceback"] is None
    assert said.replace("'", "&#39;") in (workdir / "report.html").read_text()


def test_the_end_names_the_first_failure_and_counts_all(whole):
    _, said = whole
    assert said.startswith("4 of the benchmark's parts failed, the first is mouse/3: ")
    assert "has no table named dev or test, only train.csv" in said
    assert "report.html lists them all" in said


def test_scores_without_leaked_rows_are_of_one_row_less(whole):
    workdir, _ = whole
    assert record(workdir, "tf/0", "data")["leaked_lines"] == [32]
    run = record(workdir, "tf/0")
    assert (run["test"]["n"], run["clean"]["n"]) == (31, 30)
    other = record(workdir, "My_promoters")
    assert other["clean"] == other["test"]


def test_a_run_is_written_as_the_file_that_repeats_it(whole):
    workdir, _ = whole
    run = load_run(FinetuneRun, workdir / "tasks" / "tf" / "0" / "seed_0.toml")
    assert run_to_dict(run) == record(workdir, "tf/0")["attempts"][0]["run"]


def test_models_stay_and_optimizer_states_go(whole, home):
    workdir, _ = whole
    run = workdir / "tasks" / "tf" / "0" / "seed_0"
    assert load_model(run / "model").labels == ("plain", "rich")
    assert not (run / "checkpoints").exists()


def test_a_second_call_does_nothing_again(whole, home):
    workdir, said = whole
    files = {file: file.stat().st_mtime_ns for file in workdir.rglob("seed_*.json")}
    data = {file: file.stat().st_mtime_ns for file in workdir.rglob("data.json")}
    assert len(files) == 2
    with pytest.raises(UserError) as error:
        run_gue(benchmark(home, "whole", tasks=()))
    assert str(error.value) == said
    assert {file: file.stat().st_mtime_ns for file in [*files, *data]} == {**files, **data}


def test_a_mended_data_set_is_run_by_the_same_call(home, train):
    train()
    place = home / "GUE" / "tf" / "1"
    tiny_task(place)
    table = (place / "train.csv").read_text()
    (place / "train.csv").write_text(table + "ACGT\n")
    with pytest.raises(UserError, match=r"1 of the benchmark's parts failed, the first is tf/1: .* 1 fields"):
        run_gue(benchmark(home, "mended", tasks=("tf/1",)))
    (place / "train.csv").write_text(table)
    run_gue(benchmark(home, "mended", tasks=("tf/1",)))
    assert record(home / "mended", "tf/1")["status"] == "done"
    assert not list((home / "mended").rglob("failed.json"))
    # and tables that change under a benchmark are noticed
    (place / "train.csv").write_text(table + "ACGT,rich\n")
    with pytest.raises(UserError, match=r"train\.csv changed since this benchmark began; use another --workdir"):
        run_gue(benchmark(home, "mended", tasks=("tf/1",)))
    assert record(home / "mended", "tf/1")["status"] == "done"


def test_every_seed_is_run_and_seed_0_of_all_data_sets_first(home, train):
    trainer = train()
    run_gue(benchmark(home, "seeds", tasks=("tf/0", "my*"), seeds=3))
    assert trainer.seeds == [0, 0, 1, 1, 2, 2]
    run_gue(benchmark(home, "seeds", tasks=("tf/0", "my*"), seeds=4))
    assert trainer.seeds[6:] == [3, 3]
    assert record(home / "seeds", "tf/0", "seed_3")["attempts"][0]["run"]["seed"] == 3


@pytest.mark.parametrize(
    ("collapses", "seeds", "collapsed"),
    [((0,), [0, 1000], False), ((0, 1000), [0, 1000, 2000], False), ((0, 1000, 2000), [0, 1000, 2000], True)],
    ids=["once", "twice", "always"],
)
def test_a_collapsed_run_is_tried_again_with_another_seed(home, train, collapses, seeds, collapsed):
    trainer = train(collapses=collapses)
    workdir = f"collapsed{len(collapses)}"
    run_gue(benchmark(home, workdir))
    assert trainer.seeds == seeds
    run = record(home / workdir, "tf/0")
    assert [attempt["seed"] for attempt in run["attempts"]] == seeds
    assert (run["collapsed"], run["collapsed_attempts"]) == (collapsed, len(collapses))
    assert run["test"]["mcc"] == (0 if collapsed else 1)
    page = (home / workdir / "report.html").read_text()
    assert f"{len(collapses)} of {len(seeds)} runs collapsed (every test row predicted as one class): each was" in page


def test_parity_takes_a_collapsed_run_as_it_comes(home, train):
    trainer = train(collapses=(0,))
    run_gue(benchmark(home, "parity", mode="parity"))
    assert trainer.seeds == [0]
    run = record(home / "parity", "tf/0")
    assert run["collapsed"]
    assert run["attempts"][0]["run"]["data"]["max_tokens"] == 30


def test_a_collapsed_probe_is_not_tried_again(home, train):
    """It has no seed to be unlucky with."""
    trainer = train(collapses=(0, 1000))
    run_gue(benchmark(home, "probe", overrides=("training.method=probe",)))
    assert trainer.seeds == [0]
    run = record(home / "probe", "tf/0")
    assert (run["collapsed"], run["collapsed_attempts"]) == (True, 1)
    assert "1 of 1 runs collapsed (every test row predicted as one class): 1 of the" in page_of(home / "probe")


def test_the_time_to_the_first_step_is_kept(home, train):
    train()
    run_gue(benchmark(home, "timed"))
    assert record(home / "timed", "tf/0")["attempts"][0]["first_step_seconds"] == 0.25
    assert '<td class="number">0.2</td>' in page_of(home / "timed")


def test_models_go_where_that_is_asked_for(home, train):
    train(collapses=(0,))
    run_gue(benchmark(home, "lean", keep_models=False))
    left = {path.name for path in (home / "lean").rglob("seed_*/*")}
    assert left == {PREDICTIONS_FILE}


def test_rows_are_capped_for_the_run_and_for_the_regression(home, train):
    train()
    run_gue(benchmark(home, "capped", max_train_rows=20))
    settings = record(home / "capped", "tf/0")["attempts"][0]["run"]
    assert len(read_table(Path(settings["data"]["train"]))) == record(home / "capped", "tf/0", "data")["train_rows"] == 20
    assert len(read_table(Path(settings["data"]["test"]))) == 31


def test_another_directory_may_go_on_with_a_capped_benchmark(home, train, monkeypatch):
    train(fails={1: KeyboardInterrupt()})
    monkeypatch.chdir(home)
    with pytest.raises(KeyboardInterrupt):
        run_gue(benchmark(Path(), "moved", seeds=2, max_train_rows=20))
    (home / "below").mkdir()
    monkeypatch.chdir(home / "below")
    trainer = train()
    run_gue(benchmark(Path(".."), "moved", seeds=2, max_train_rows=20))
    assert trainer.seeds == [1]
    assert "Everything that was found was run." in page_of(home / "moved")


def test_a_benchmark_within_its_data_is_no_data_set(home, train):
    train()
    for _ in range(2):
        run_gue(benchmark(home, "GUE/out", max_train_rows=20))
    assert record(home / "GUE" / "out", "tf/0")["status"] == "done"
    assert json.loads((home / "GUE" / "out" / "found.json").read_text())["seeds"] == {"tf/0": 1}
    shutil.rmtree(home / "GUE" / "out")


def test_an_unexpected_error_is_kept_with_its_trace_and_the_rest_goes_on(home, train):
    train(fails={0: RuntimeError("the machine is on fire")})
    with pytest.raises(
        UserError, match="1 of the benchmark's parts failed, the first is tf/0, seed 0: RuntimeError: the machine"
    ):
        run_gue(benchmark(home, "broken", seeds=2))
    failed = record(home / "broken", "tf/0")
    assert failed["status"] == "failed"
    assert "RuntimeError: the machine is on fire" in failed["traceback"]
    assert record(home / "broken", "tf/0", "seed_1")["status"] == "done"
    train()
    run_gue(benchmark(home, "broken", seeds=2))
    assert record(home / "broken", "tf/0")["status"] == "done"


def test_an_interrupted_benchmark_goes_on_with_what_is_left(home, train):
    train(fails={1: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_gue(benchmark(home, "interrupted", seeds=3))
    assert (home / "interrupted" / "report.html").exists()
    trainer = train()
    run_gue(benchmark(home, "interrupted", seeds=3))
    assert trainer.seeds == [1, 2]


def test_a_benchmark_is_not_continued_with_other_settings(home, whole):
    tiny_model(home / "other_model", seed=3)
    for change, said in (
        ({"max_train_rows": 20}, "max_train_rows was None and is now 20"),
        ({"mode": "parity"}, "mode was 'recommended' and is now 'parity'"),
        ({"overrides": ()}, "overrides was"),
    ):
        with pytest.raises(UserError, match=said):
            run_gue(benchmark(home, "whole", **change))
    with pytest.raises(UserError, match="model_sha256 was"):
        run_gue(GueRun(data=home / "GUE", model=home / "other_model", workdir=home / "whole", overrides=SETTINGS))


def test_the_commands_end_with_one_line(home, whole, capsys, monkeypatch):
    monkeypatch.chdir(home)
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ["gue", "run", "--data", "GUE", "--model", "model", "--workdir", "whole", "--seeds", "1", *options]
    code, output, errors = command(capsys, monkeypatch, *words, "--tasks", "tf/0, mouse/?")
    assert code == 2
    [last] = [line for line in errors.splitlines() if line.startswith("dnabert2:")]
    assert "4 of the benchmark's parts failed" in last
    assert "k-mer MCC x 100" in output  # the table comes all the same
    code, output, _ = command(capsys, monkeypatch, *words, "--tasks", "tf/0")
    assert code in (0, None)
    assert output.splitlines()[-1] == "saved whole/report.html"
    assert "k-mer MCC x 100" in output
    assert "tf/0" in output
    code, output, _ = command(capsys, monkeypatch, "gue", "report", "--workdir", "whole")
    assert code in (0, None)
    assert "k-mer MCC x 100" in output
    assert output.splitlines()[-1] == "saved whole/report.html"
