"""A whole benchmark on tiny data: good data sets beside every kind of bad one.

What happens around the runs (failure, collapse, going on) is tested with a trainer that takes no time; training itself has
tests of its own, and the slow tests here do the same with real runs.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.cli import main
from dnabert2_jax.data.tables import load_splits, read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.evaluation.gue.runner import MOST_ATTEMPTS, GueRun, run_gue
from dnabert2_jax.evaluation.metrics import classification_metrics
from dnabert2_jax.evaluation.report.sections import PREDICTIONS_FILE
from dnabert2_jax.model_directory import SavedAdapter, load_model, make_provenance, save_adapter
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.runs import FinetuneRun, load_run, run_to_dict
from dnabert2_jax.training.finetuning import Finetuned
from tests.helpers import (
    finetune_run,
    kill_when,
    run_cli,
    start_cli,
    tiny_model,
    tiny_rows,
    tiny_task,
    tiny_tokenizer,
    write_table,
)

SETTINGS = (
    "training.batch_size=16",
    "training.epochs=4",
    "training.evaluations_per_epoch=1",
    "training.padded_lengths=1",
    "optimizer.learning_rate=1e-2",
    "optimizer.warmup_steps=2",
    "mesh.data=1",  # of the eight devices that every test has
)


@pytest.fixture(autouse=True, scope="module")
def promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    """Pictures take seconds to draw, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.evaluation.report.run.write_report", lambda *_: None)
        patch.setattr("dnabert2_jax.evaluation.gue.report.draw_pictures", lambda *_: "")
        yield


class Trainer:
    """In place of ``finetune``: predicts the training table's first class everywhere, or the right one, or fails.

    Args:
        collapses: seeds whose run collapses.
        fails: what a seed's run raises.
    """

    def __init__(self, collapses: tuple[int, ...] = (), fails: dict[int, BaseException] | None = None) -> None:
        self.collapses, self.fails, self.seeds = collapses, fails or {}, []

    def __call__(self, run: FinetuneRun, workdir: Path) -> Finetuned:
        self.seeds.append(run.seed)
        if run.seed in self.fails:
            raise self.fails[run.seed]
        splits = load_splits(run.data.train, run.data.dev, run.data.test)
        labels = splits.labels.encode(splits.test)
        predicted = np.zeros_like(labels) if run.seed in self.collapses else labels
        probabilities = np.eye(len(splits.labels))[predicted]
        (workdir / "model").mkdir(parents=True)
        (workdir / "model" / "weights").touch()
        (workdir / "checkpoints").mkdir()
        np.savez(workdir / PREDICTIONS_FILE, labels=labels, probabilities=probabilities, lines=np.array(splits.test.lines))
        scores = classification_metrics(labels, probabilities, splits.labels.names)
        return Finetuned(workdir / "model", None, scores, scores, 1, 1, 0.5, 0.25)


@pytest.fixture
def train(monkeypatch):
    """Puts a trainer in the place of ``finetune``."""

    def put(**arguments) -> Trainer:
        trainer = Trainer(**arguments)
        monkeypatch.setattr("dnabert2_jax.evaluation.gue.runner.finetune", trainer)
        return trainer

    return put


def crlf(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gue")
    tiny_model(path / "model")
    good = tiny_task(path / "GUE" / "tf" / "0", test=30)
    with Path(good["test"]).open("a") as file:  # one row of the training table
        file.write(Path(good["train"]).read_text().splitlines()[1] + "\n")
    tiny_task(path / "GUE" / "My promoters")
    for file in (path / "GUE" / "My promoters").iterdir():
        crlf(file.rename(file.with_name(file.name.upper())))
    bad = path / "GUE" / "mouse"
    for name, labels in {"0": "0", "1": "02", "2": ("0.5", "1.25")}.items():
        rows = [(sequence, labels[n % len(labels)]) for n, (sequence, _) in enumerate(tiny_rows(20, 5))]
        for split in ("train", "dev", "test"):
            write_table(bad / name / f"{split}.csv", rows[:1] if name == "0" else rows)
    write_table(bad / "3" / "train.csv", tiny_rows(8, 1))
    return path


def benchmark(home: Path, workdir: str, **changes) -> GueRun:
    options = {"tasks": ("tf/0",), "seeds": 1, "overrides": SETTINGS, "model": home / "model"}
    return GueRun(data=home / "GUE", workdir=home / workdir, **{**options, **changes})


@pytest.fixture(scope="module")
def whole(home) -> tuple[Path, str]:
    """Everything, good and bad; the directory and what was said at the end."""
    with pytest.raises(UserError) as error:
        run_gue(benchmark(home, "whole", tasks=()))
    return home / "whole", str(error.value)


def record(workdir: Path, task: str, name: str = "seed_0") -> dict:
    return json.loads((workdir / "tasks" / task / f"{name}.json").read_text())


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
    ],
    ids=["one row", "a gap", "measurements"],
)
def test_a_bad_data_set_is_recorded_with_what_is_wrong(whole, task, said):
    workdir, _ = whole
    failed = record(workdir, task, "failed")
    assert said in failed["error"]
    assert failed["traceback"] is None
    assert said.replace("'", "&#x27;") in (workdir / "report.html").read_text()


def test_the_end_names_the_first_failure_and_counts_all(whole):
    _, said = whole
    assert said.startswith("4 of the benchmark's parts failed, the first is mouse/3: ")
    assert "has no table called dev or test, only train.csv" in said
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
    run = load_run(FinetuneRun, workdir / "tasks" / "tf" / "0" / "seed_0.toml", SETTINGS)
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


def page_of(workdir: Path) -> str:
    return (workdir / "report.html").read_text()


def test_the_time_to_the_first_step_is_kept(home, train):
    train()
    run_gue(benchmark(home, "timed"))
    assert record(home / "timed", "tf/0")["attempts"][0]["first_step_seconds"] == 0.25
    assert '<td class="number">0.2</td>' in page_of(home / "timed")


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
    with pytest.raises(UserError, match=r"model size '3n' is unknown; .* did you mean '3m'"):
        run_gue(replace(scratch, workdir=home / "never", size="3n"))
    assert not (home / "never").exists()


@pytest.mark.parametrize(
    "start",
    [{}, {"size": "1m"}, {"tokenizer": Path("t")}, {"model": Path("m"), "size": "1m", "tokenizer": Path("t")}],
    ids=["nothing", "a size alone", "a tokenizer alone", "both"],
)
def test_there_is_one_start(home, start):
    with pytest.raises(UserError, match=r"give either --model .*, or --size and --tokenizer to start from random weights"):
        run_gue(GueRun(data=home / "GUE", workdir=home / "never", **start))


@pytest.mark.slow
def test_a_real_run_from_random_weights(home):
    tiny_tokenizer().save(home / "tokenizer")
    options = {"model": None, "size": "1m", "tokenizer": home / "tokenizer", "overrides": (*SETTINGS, "training.epochs=1")}
    run_gue(benchmark(home, "from_scratch", **options))
    attempt = record(home / "from_scratch", "tf/0")["attempts"][-1]
    assert attempt["trained_parameters"] > 500_000
    assert 0 < attempt["first_step_seconds"] < attempt["seconds"]


@pytest.mark.slow
def test_real_benchmarks_of_several_methods_stand_side_by_side(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    words = ("gue", "run", "--data", "GUE", "--model", "model", "--tasks", "tf/0", "--seeds", "2")
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    methods = ("probe", "lora", "full")
    for method in methods:
        code, _, errors = command(
            capsys, monkeypatch, *words, *options, "--set", f"training.method={method}", "--workdir", f"by/{method}"
        )
        assert code == 0, errors
    workdirs = [word for method in methods for word in ("--workdir", f"by/{method}")]
    code, output, errors = command(capsys, monkeypatch, "gue", "report", *workdirs, "--out", "side_by_side.html")
    assert code == 0, errors
    assert output.splitlines()[-1] == "saved side_by_side.html"
    assert all(method in output for method in methods)


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


def test_an_adapter_is_no_model_to_start_from(home):
    base = load_model(home / "model")
    run = finetune_run(home / "model", dict.fromkeys(("train", "dev", "test"), "x.csv"))
    params = {"adapter": jax.device_get(init_adapter(base.config, run.lora, 0))}
    provenance = make_provenance(["test"], run_config={}, parents={}, metrics={})
    adapter = SavedAdapter(base=base, params=params, lora=run.lora, labels=("a", "b"), provenance=provenance)
    save_adapter(home / "adapter", adapter)
    with pytest.raises(UserError, match="is an adapter directory, a model directory is needed here: merge the adapter"):
        run_gue(GueRun(data=home / "GUE", model=home / "adapter", workdir=home / "never"))
    assert not (home / "never").exists()


@pytest.mark.slow
def test_a_real_run_that_never_moves_collapses(home):
    still = (*SETTINGS, "optimizer.learning_rate=1e-12", "training.epochs=1")
    run_gue(benchmark(home, "still", overrides=still))
    run = record(home / "still", "tf/0")
    assert [attempt["collapsed"] for attempt in run["attempts"]] == [True] * MOST_ATTEMPTS
    assert len({attempt["dev"]["mcc"] for attempt in run["attempts"]}) == 1


@pytest.mark.slow
def test_a_killed_benchmark_goes_on(home):
    workdir = home / "killed"
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ("gue", "run", "--data", "GUE", "--model", "model", "--workdir", "killed", "--tasks", "tf/0", "--seeds", "2")
    first = workdir / "tasks" / "tf" / "0" / "seed_0.json"
    kill_when(start_cli(*words, *options, cwd=home), first.exists)
    done = first.read_bytes()
    assert not first.with_name("seed_1.json").exists()
    result = run_cli(*words, *options, cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "saved killed/report.html"
    assert first.read_bytes() == done
    assert record(workdir, "tf/0", "seed_1")["status"] == "done"


def test_the_commands_end_with_one_line(home, whole, capsys, monkeypatch):
    monkeypatch.chdir(home)
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ["gue", "run", "--data", "GUE", "--model", "model", "--workdir", "whole", "--seeds", "1", *options]
    code, _, errors = command(capsys, monkeypatch, *words, "--tasks", "tf/0", "--tasks", "mouse/?")
    assert code == 2
    [last] = [line for line in errors.splitlines() if line.startswith("dnabert2:")]
    assert "4 of the benchmark's parts failed" in last
    code, output, _ = command(capsys, monkeypatch, *words, "--tasks", "tf/0")
    assert code in (0, None)
    assert output.splitlines()[-1] == "saved whole/report.html"
    code, output, _ = command(capsys, monkeypatch, "gue", "report", "--workdir", "whole")
    assert code in (0, None)
    assert "k-mer MCC x 100" in output
    assert output.splitlines()[-1] == "saved whole/report.html"


def command(capsys, monkeypatch, *words: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["dnabert2", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return (end.value.code, *capsys.readouterr())
