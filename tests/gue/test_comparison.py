"""Benchmarks side by side, from records written by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax.cli import main
from dnabert2_jax.gue.catalog import METRIC_NAMES, REFERENCE, catalog
from dnabert2_jax.gue.comparison import comparison_rows, read_benchmarks, write_comparison
from dnabert2_jax.gue.discovery import discover
from dnabert2_jax.gue.plots import comparison_picture
from dnabert2_jax.gue.tables import prepare
from dnabert2_jax.storage.atomic import write_json
from tests.helpers import tiny_task, tiny_tokenizer, write_table
from tests.reports.plots.helpers import legend_is_inside

SCORES = {
    "probe": {"prom/prom_core_tata": [0.5], "mine": [0.2]},
    "full": {"prom/prom_core_tata": [0.7, 0.8], "mine": [0.1, 0.3], "tf/0": [0.6]},
}


def write_benchmark(home: Path, name: str, method: str, scores: dict[str, list[float]]) -> None:
    workdir = home / name
    asked = {"mode": "recommended", "model": f"{method} & co", "max_train_rows": None, "overrides": [f"a.b={method}"]}
    workdir.mkdir(parents=True)
    write_json(workdir / "run.json", {"command": "gue run", **asked})
    for task, values in scores.items():
        if not (home / "GUE" / task).exists():
            tiny_task(home / "GUE" / task)
        folder = workdir / "tasks" / task
        folder.mkdir(parents=True)
        [found] = discover(home / "GUE" / task).found
        write_json(folder / "data.json", prepare(found, tiny_tokenizer(), folder, None))
        for seed, mcc in enumerate(values):
            test = {"mcc": mcc, "macro_f1": mcc}
            attempt = {
                "collapsed": False,
                "trained_parameters": 66,
                "first_step_seconds": 2.0 + seed if method == "full" else None,
                "run": {"training": {"method": method}},
            }
            record = {"status": "done", "seed": seed, "collapsed": False, "collapsed_attempts": 0, "seconds": 10.0}
            write_json(folder / f"seed_{seed}.json", {**record, "test": test, "clean": test, "attempts": [attempt]})


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("comparison")
    for method, scores in SCORES.items():
        write_benchmark(path, f"runs/{method}", method, scores)
    return path


@pytest.fixture(scope="module")
def workdirs(home) -> list[Path]:
    return [home / "runs" / method for method in SCORES]


def test_a_column_for_each_directory_and_the_mean_over_what_all_have(workdirs):
    records = comparison_rows(read_benchmarks(workdirs))
    assert list(records[0]) == ["data set, metric", "probe", "full", "k-mer regression", f"published {REFERENCE}"]
    rows = [tuple(record.values()) for record in records]
    cells = {row[0]: row[1:] for row in rows}
    deviation = 100 * np.std([0.7, 0.8], ddof=1)
    tata = cells["prom/prom_core_tata, MCC x 100"]
    assert tata[:2] == ("50.00", f"75.00 ± {deviation:.2f}")
    assert tata[3] == f"{catalog()['prom/prom_core_tata'].published[REFERENCE]:.2f}"
    assert cells["tf/0, MCC x 100"][:2] == ("—", "60.00")
    assert rows[-1][:3] == ("mean of the 2 data sets that all have", "35.00", "47.50")
    assert rows[-1][4] == "—"  # one of them has no published score


def test_the_page_says_what_each_column_is_and_what_it_cost(home, workdirs):
    text = write_comparison(read_benchmarks(workdirs), home / "page.html").read_text()
    for said in (
        "<td>method</td><td>probe</td><td>full</td>",
        "probe &amp; co",
        "a.b=full",
        "<td>seconds to the end of the first step, mean</td><td>—</td><td>2.4</td>",
        "Not in every column: tf/0.",
        "Different numbers of seeds: probe 1, full 1 to 2.",
        "Row counts differ from the published ones: prom/prom_core_tata, tf/0",
    ):
        assert said in text
    assert text.count("data:image/png;base64,") == 2  # on a light ground and on a dark one
    assert not list(home.glob(".page*"))


def test_directories_of_one_name_are_told_apart_by_their_parents(home):
    write_benchmark(home, "other/full", "full", {"mine": [0.4]})
    names = list(read_benchmarks([home / "runs" / "full", home / "other" / "full"]))
    assert names == ["runs/full", "other/full"]


def test_other_tables_under_one_name_are_no_comparison(home, workdirs, tmp_path):
    tiny_task(tmp_path / "GUE" / "mine")
    write_table(tmp_path / "GUE" / "mine" / "test.csv", [("ACGTACGTAC", "plain"), ("GGGGCCCCGC", "rich")])
    write_benchmark(tmp_path, "changed", "full", {"mine": [0.4]})
    text = write_comparison(read_benchmarks([*workdirs, tmp_path / "changed"]), tmp_path / "page.html").read_text()
    assert "Different tables under one name, so that scores are not comparable: mine." in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workdir", "runs/full", "--workdir", "runs/probe"], "several benchmarks need --out, the .html file to write"),
        (["--workdir", "runs/full", "--out", "page.html"], "--out is for several benchmarks; the page of one is in its --w"),
        (
            ["--workdir", "runs/full", "--workdir", "./runs/full", "--out", "p.html"],
            "is given twice; name each --workdir",
        ),
        (["--workdir", "runs/full", "--workdir", "GUE", "--out", "p.html"], "holds no benchmark"),
        (["--workdir", "runs/full", "--workdir", "runs/probe", "--out", "p.pdf"], "accepted are .html"),
    ],
    ids=["no page", "a page of one", "twice", "no benchmark", "another format"],
)
def test_what_cannot_be_compared_is_refused(home, words, said, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["dnabert2", "gue", "report", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(home.glob("p.*"))


def test_names_of_benchmarks_are_broken_to_fit_the_picture():
    names = [f"DNABERT-2-117M_full_learning_rate_3e-5_reverse_complement_seed_{n}" for n in range(3)]
    tasks = list(catalog().values())[:8]
    summary = {
        "data": {"kmer": dict.fromkeys(METRIC_NAMES, 0.5)},
        "scores": {name: {"values": [0.6]} for name in METRIC_NAMES},
    }
    assert legend_is_inside(comparison_picture(names, [(task, [summary] * 3) for task in tasks]))
