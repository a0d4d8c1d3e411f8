"""The page, from records written by hand: no run is needed to see what it says."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import catalog
from dnabert2_jax.gue.discovery import discover
from dnabert2_jax.gue.notes import benchmark_notes
from dnabert2_jax.gue.report import write_gue_report
from dnabert2_jax.gue.summary import mean_over, score_rows, summarize
from dnabert2_jax.gue.tables import prepare
from dnabert2_jax.storage.atomic import write_json
from tests.gue.helpers import command
from tests.helpers import tiny_task, tiny_tokenizer

SCORES = {
    "prom/prom_core_tata": {"mcc": [0.5, 0.6, 0.7], "macro_f1": [0.8, 0.8, 0.8]},
    "virus/covid": {"mcc": [0.2, 0.4], "macro_f1": [0.5, 0.7]},
    "mine": {"mcc": [0.25], "macro_f1": [0.75]},
}


def attempt(seed: int, mcc: float, macro_f1: float, *, collapsed: bool = False) -> dict:
    scores = {"mcc": mcc, "macro_f1": macro_f1}
    run = {
        "data": {"max_tokens": 24, "token_types": True},
        "training": {"method": "full", "selection": "mcc", "epochs": 2, "batch_size": 8, "evaluations_per_epoch": 1},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5, "weight_decay": 0.01},
    }
    about = {"seed": seed, "collapsed": collapsed, "best_step": 4, "seconds": 1.5, "run": run}
    intervals = {name: [score - 0.125, score + 0.0625] for name, score in scores.items()}
    # Records of earlier versions have no intervals; here, those of collapsed runs.
    return {**about, "dev": scores, "test": scores} | ({} if collapsed else {"intervals": {"scores": intervals}})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report")
    asked = {"command": "gue run", "mode": "recommended", "model": "m<1>", "max_train_rows": 30, "overrides": ["a.b=1"]}
    (path / "out").mkdir()
    write_json(path / "out" / "run.json", asked)
    seeds = {"prom/prom_core_tata": 4, "prom/prom_core_all": 2}
    write_json(path / "out" / "found.json", {"seeds": seeds, "problems": {"tf/1": "torn & <lost>"}})
    for task, scores in SCORES.items():
        tiny_task(path / "GUE" / task)
        folder = path / "out" / "tasks" / task
        folder.mkdir(parents=True)
        [found] = discover(path / "GUE" / task).found
        write_json(folder / "data.json", prepare(found, tiny_tokenizer(), folder, 30))
        for seed, (mcc, macro_f1) in enumerate(zip(*scores.values(), strict=True)):
            last = attempt(seed, mcc, macro_f1)
            attempts = [attempt(seed + 1000, 0.0, 1 / 3, collapsed=True), last] if task == "mine" else [last]
            record = {"status": "done", "seed": seed, "collapsed": False, "collapsed_attempts": len(attempts) - 1}
            clean = last["test"] if task != "mine" else None
            write_json(folder / f"seed_{seed}.json", {**record, "test": last["test"], "clean": clean, "attempts": attempts})
    write_json(
        path / "out" / "tasks" / "virus/covid" / "seed_2.json", {"status": "failed", "seed": 2, "error": "no & memory"}
    )
    write_gue_report(path / "out")
    return path / "out"


class Page(HTMLParser):
    """The text of a page, its tables as rows of cells, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.addresses, self.cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("href", "src", "srcset")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def page(workdir) -> Page:
    return Page((workdir / "report.html").read_text())


def test_means_and_deviations_are_those_of_the_seeds(workdir):
    rows = score_rows(summarize(workdir)["tasks"])
    row = rows[0]
    values = 100 * np.array(SCORES["prom/prom_core_tata"]["mcc"])
    assert row["MCC x 100"] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
    assert row["macro F1 x 100"] == "80.00 ± 0.00"
    assert row["seeds"] == "3"
    alone = rows[2]
    assert (alone["data set"], alone["MCC x 100"], alone["collapsed"]) == ("mine", "25.00", "1 of 2")
    assert alone["published metric"] == "—"


def test_the_data_sets_that_k_mers_do_as_well_on_are_named_with_both_scores(workdir, capsys, monkeypatch):
    [note] = [note for note in benchmark_notes(summarize(workdir)) if note.startswith("No better than")]
    behind = {
        task[
            "task"
        ]: f"{task['task']} ({100 * task['scores']['mcc']['mean']:.2f} versus {100 * task['data']['kmer']['mcc']:.2f})"
        for task in summarize(workdir)["tasks"]
        if task["scores"]["mcc"]["mean"] <= task["data"]["kmer"]["mcc"]
    }
    assert behind
    assert len(behind) == note.count(" versus ")
    assert all(text in note for text in behind.values())
    code, output, errors = command(capsys, monkeypatch, "gue", "report", "--workdir", str(workdir))
    assert code in (0, None)
    assert output.index("k-mer MCC x 100") < output.index("saved")
    assert f"warning: {note}" in errors
    assert "warning: Runs that failed: virus/covid (1)" in errors


def test_the_mean_is_of_each_data_sets_own_metric(workdir):
    tasks = summarize(workdir)["tasks"][:2]
    assert [task["task"] for task in tasks] == ["prom/prom_core_tata", "virus/covid"]
    assert mean_over(tasks) == pytest.approx((60 + 60) / 2)
    published = [catalog()[task["task"]].published["NT-2500M-multi"] for task in tasks]
    assert mean_over(tasks, "NT-2500M-multi") == pytest.approx(sum(published) / 2)


def test_every_column_of_scores_names_its_metric(page):
    scores = [row for row in page.rows if row[0] == "data set" and "seeds" in row]
    assert len(scores) == 1
    unnamed = {"data set", "train rows", "seeds", "published metric", "published DNABERT-2", "best published", "collapsed"}
    assert all("MCC" in name or "macro F1" in name for name in scores[0] if name not in unnamed)
    names = [row[0] for row in page.rows if "," in row[0]]
    assert {"prom/prom_core_tata, MCC x 100", "virus/covid, macro F1 x 100"} <= set(names)


def test_the_ten_published_models_stand_beside(page):
    [header] = [row for row in page.rows if row[0] == "data set, metric"]
    assert header[1:] == ["this model", *catalog()["virus/covid"].published]
    [row] = [row for row in page.rows if row[0].startswith("virus/covid,")]
    assert row[1:] == ["60.00", *(f"{score:.2f}" for score in catalog()["virus/covid"].published.values())]


def test_each_run_has_its_scores_with_intervals(page):
    [header] = [row for row in page.rows if row[:2] == ["data set", "seed"]]
    assert header[2:4] == ["test MCC x 100", "test macro F1 x 100"]
    runs = {(row[0], row[1]): row[2:4] for row in page.rows if row[:1] in (["mine"], ["virus/covid"])}
    assert runs["virus/covid", "1"] == ["40.00 (27.50-46.25)", "70.00 (57.50-76.25)"]
    assert runs["mine", "1000"] == ["0.00", "33.33"]


def test_what_was_not_run_is_listed_with_its_reason(page, workdir):
    assert ["tf/1", "could not be used", "torn & <lost>"] in page.rows
    assert ["virus/covid", "seed 2 failed", "no & memory"] in page.rows
    text = (workdir / "report.html").read_text()
    assert "<h3>Not run yet</h3><p>prom/prom_core_tata (seed 3), prom/prom_core_all (all seeds)." in text
    [missing] = re.findall("<h3>GUE data sets without a result</h3><p>(.*?)</p>", text)
    assert missing.split(", ") == [
        task.name
        for task in catalog().values()
        if task.suite == "GUE" and task.name not in ("prom/prom_core_tata", "prom/prom_core_all", "virus/covid", "tf/1")
    ]


def test_a_reader_is_told_what_to_know(workdir):
    notes = re.findall(r'<p class="note">(.*?)</p>', (workdir / "report.html").read_text())
    for said in (
        "At most 30 training rows were used (3 of 3 data sets have more)",
        "--set a.b=1",
        "1 of 7 runs collapsed",
        "0 of the scores below come from a collapsed run",
        "Runs that failed: virus/covid (1)",
        "Not finished: 2 data sets have pending runs",
        "Row counts differ from the published ones: prom/prom_core_tata, virus/covid",
    ):
        assert any(said in note for note in notes), said


def test_the_page_needs_nothing_from_elsewhere(page, workdir):
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert {file.name for file in (workdir / "pictures").iterdir()} == {"scores.png", "distances.png"}


def test_made_again_it_is_the_same(workdir):
    before = {name: (workdir / name).read_bytes() for name in ("report.html", "summary.json")}
    write_gue_report(workdir)
    assert {name: (workdir / name).read_bytes() for name in before} == before
    assert json.loads(before["summary.json"])["tasks"][2]["clean"] == {}


def test_a_benchmark_without_a_finished_run_has_a_page(tmp_path):
    write_json(
        tmp_path / "run.json",
        {"command": "gue run", "mode": "parity", "model": "m", "max_train_rows": None, "overrides": []},
    )
    assert "tf/0" in write_gue_report(tmp_path).read_text()


@pytest.mark.parametrize("command", [None, "finetune"])
def test_another_directory_is_refused(tmp_path, command):
    if command:
        write_json(tmp_path / "run.json", {"command": command})
    with pytest.raises(UserError, match="holds no benchmark"):
        write_gue_report(tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    write_json(tmp_path / "run.json", {"command": "gue run"})
    (tmp_path / "found.json").write_text("{")
    with pytest.raises(UserError, match=r"found\.json cannot be read .*; delete it and rerun the command"):
        write_gue_report(tmp_path)
