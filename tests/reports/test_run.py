import base64
import io
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.baselines.comparison import kmer_baseline, kmer_baseline_if_feasible
from dnabert2_jax.cli import main
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.data.checks import tables_report
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.metrics.scores import classification_metrics
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.reports import report_finetuning, write_report
from dnabert2_jax.reports.embeddings import embed_test_rows
from dnabert2_jax.reports.plots.style import DARK, LIGHT
from dnabert2_jax.reports.run import finetuning_notes, pretraining_notes
from dnabert2_jax.storage.atomic import write_json
from dnabert2_jax.training.workdir import flat_settings
from tests.helpers import (
    finetune_content,
    finetune_run,
    pretrain_run,
    tiny_corpus,
    tiny_model,
    tiny_rows,
    tiny_task,
    tiny_tokenizer,
    write_table,
)
from tests.reports.helpers import Page


def read(file: Path) -> Page:
    document = file.read_text(encoding="utf-8")
    parsed = Page(document)
    for reference in parsed.references:
        assert reference.startswith("data:image/png;base64,") or reference[1:] in parsed.anchors
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert "url(" not in document
    assert "@import" not in document
    return parsed


def grounds(parsed: Page) -> set[tuple[int, ...]]:
    """Corner colors of the pictures in a page."""
    pictures = [reference for reference in parsed.references if reference.startswith("data:")]
    data = [base64.b64decode(picture.partition(",")[2]) for picture in pictures]
    return {Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0)) for png in data}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A fine-tuning run on tables with every flaw that the report should tell."""
    folder = tmp_path_factory.mktemp("finished")
    data = tiny_task(folder / "task")
    train = tiny_rows(40, seed=0)
    train += [(train[0][0], "rich"), train[1], ("acgtnACGTACGTACGTTTA", "plain"), ("ACGT" * 40, "rich")]
    data["train"] = str(write_table(folder / "task" / "train.csv", train))
    data["test"] = str(write_table(folder / "task" / "test.csv", [*tiny_rows(30, seed=2), (train[1][0], "plain"), train[2]]))
    model = tiny_model(folder / "base", num_hidden_layers=1)
    run = finetune_run(model.path, {**data, "max_tokens": 30}, training={"method": "lora", "epochs": 2})
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        finetune(run, folder / "work")
    return folder / "work"


def test_finetuning_writes_a_page_that_needs_nothing_else(finished: Path):
    parsed = read(finished / "report.html")
    scores = json.loads((finished / "scores.json").read_text())
    assert parsed.anchors == {"scores", "floor", "training", "time", "data", "use", "config", "made"}
    assert f"{scores['test']['mcc']:.4f}" in parsed.text
    assert f"{scores['trained_parameters']:,}" in parsed.text
    assert f"dnabert2 predict --model {finished}/model" in parsed.text
    assert f"dnabert2 adapters list {finished}/adapter" in parsed.text
    hex_to_rgb = [tuple(bytes.fromhex(theme.ground[1:])) for theme in (LIGHT, DARK)]
    assert grounds(parsed) == set(hex_to_rgb)
    sources = [attrs for tag, attrs in parsed.tags if tag == "source"]
    assert {attrs["media"] for attrs in sources} == {"(prefers-color-scheme: dark)"}
    assert all(attrs["alt"] for tag, attrs in parsed.tags if tag == "img")


def test_pictures_lie_beside_the_page(finished: Path):
    names = {"confusion_matrix", "roc", "precision_recall", "training_curves", "token_lengths"}
    files = {file.stem: file for file in (finished / "pictures").iterdir() if file.stem != "embedding_map"}
    assert set(files) == names
    for file in files.values():
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.width > 600


def test_test_probabilities_are_kept_and_give_the_scores(finished: Path):
    scores = json.loads((finished / "scores.json").read_text())["test"]
    with np.load(finished / "test_predictions.npz") as kept:
        again = classification_metrics(kept["labels"], kept["probabilities"], scores["classes"])
        assert kept["lines"].tolist() == list(range(2, 34))
    assert again == scores


def test_the_floor_stands_beside_the_scores_and_leaked_rows_are_left_out(finished: Path):
    scores = json.loads((finished / "scores.json").read_text())["test"]
    floor = json.loads((finished / "floor.json").read_text())
    with np.load(finished / "test_predictions.npz") as kept:
        labels, probabilities = kept["labels"], kept["probabilities"]
    assert floor["leaked_lines"] == [32, 33]
    assert floor["clean"] == classification_metrics(labels[:30], probabilities[:30], scores["classes"])
    assert (floor["kmer"]["n"], floor["kmer_clean"]["n"]) == (32, 30)
    text = read(finished / "report.html").text
    header = "MCC, without leaked rows (2)\nmacro F1, without leaked rows (2)\naccuracy, without leaked rows (2)"
    assert f"MCC, all 32 rows\nmacro F1, all 32 rows\naccuracy, all 32 rows\n{header}" in text
    for who, of in (
        ("this model", (scores, floor["clean"])),
        ("1-5-mer logistic regression", (floor["kmer"], floor["kmer_clean"])),
    ):
        numbers = [f"{one[key]:.4f}" for one in of for key in ("mcc", "macro_f1", "accuracy")]
        assert "\n".join([who, *numbers]) in text
    assert f"{floor['kmer']['mcc']:.4f}\ntest MCC of 1-5-mer counts" in text
    assert ("does as well or better on the same rows" in text) == (scores["mcc"] <= floor["kmer"]["mcc"])


def test_a_known_baseline_is_taken_and_a_large_table_has_none(finished: Path, tmp_path: Path, monkeypatch):
    run = json.loads((finished / "run.json").read_text())["data"]
    splits = load_splits(run["train"], run["dev"], run["test"])
    encoded = {
        name: encode_table(getattr(splits, name), tiny_tokenizer(), splits.labels, 30) for name in ("train", "dev", "test")
    }
    floor = json.loads((finished / "floor.json").read_text())
    rows = sum(map(len, (splits.train, splits.dev, splits.test)))
    monkeypatch.setattr("dnabert2_jax.baselines.comparison.MAX_KMER_COUNTS", rows * 1364 - 1)
    for known in (kmer_baseline_if_feasible(splits), {**floor, "leaked_lines": [2]}):
        work = tmp_path / str(known is None)
        work.mkdir()
        shutil.copy(finished / "run.json", work)
        report_finetuning(work, tables_report(splits, encoded), splits, encoded, np.full((32, 2), 0.5), known)
        assert (work / "floor.json").exists() == (known is not None)
    assert json.loads((work / "floor.json").read_text())["leaked_lines"] == [2]
    assert json.loads((work / "floor.json").read_text())["clean"]["n"] == 31


def test_flaws_of_the_tables_are_counted_and_noted(finished: Path):
    report = json.loads((finished / "data_report.json").read_text())
    train = report["tables"]["train"]
    assert (train["rows"], train["duplicate_rows"], train["contradictory_sequences"]) == (44, 2, 1)
    assert train["contradictory_lines"] == [2, 42]
    assert train["lower_case"] == 5
    assert train["ambiguous"] == {"N": 1}
    assert train["truncated_rows"] == 1
    assert (train["shortest"], train["longest"]) == (20, 160)
    shared = {(pair["earlier"], pair["later"]): pair for pair in report["shared"]}
    assert shared["train", "dev"]["rows"] == shared["dev", "test"]["rows"] == 0
    assert shared["train", "test"] == {
        "earlier": "train",
        "later": "test",
        "rows": 2,
        "contradictory_rows": 1,
        "lines": [32, 33],
    }
    text = read(finished / "report.html").text
    assert "Truncated to 30 tokens: 1 of 44 train rows; data.max_tokens" in text
    assert f"dnabert2 evaluate --model {finished}/model --data" in text
    assert load_model(finished / "model").head.max_tokens == 30  # which evaluate and predict keep to
    assert "1 sequences of the train table have more than one label (lines 2, 42)" in text
    assert "2 of 32 test rows are also in the train table (lines 32, 33), 1 of them with another label" in text


def test_the_notes_of_the_page_are_there_for_the_terminal_too(finished: Path):
    notes = finetuning_notes(finished)
    page = (finished / "report.html").read_text()
    assert re.findall(r'<p class="note">(.*?)</p>', page) == [note.replace("'", "&#39;") for note in notes]
    assert any("2 of 32 test rows are also in the train table" in note for note in notes)


def test_warnings_and_intervals_reach_the_terminal(tmp_path: Path, monkeypatch, capsys):
    file = write_table(tmp_path / "all.csv", tiny_rows(12, seed=3))
    model = tiny_model(tmp_path / "base", num_hidden_layers=1)
    tables = {split: str(file) for split in ("train", "dev", "test")}
    content = finetune_content(model.path, tables, training={"method": "probe"})
    words = [f"{key}={value}" for key, value in flat_settings(content).items() if not key.startswith("mesh")]
    command = ["finetune", "--workdir", str(tmp_path / "work"), *(part for word in words for part in ("--set", word))]
    monkeypatch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["dnabert2", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 0, told
    before, after = told.split("embedded in")  # before the work begins, and again beside the scores
    for part in (before, after):
        assert "warning: 12 of 12 dev rows are also in the train table" in part
        assert "warning: 12 of 12 test rows are also in the train table" in part
    assert re.search(r"test MCC \d\.\d{4} \[-?\d\.\d{3}, \d\.\d{3}\] .*\(12 rows; 95% intervals\)", after)
    assert "warning: A logistic regression on counts of 1-5-mers does as well or better on the same rows, MCC" in after
    scores = json.loads((tmp_path / "work" / "scores.json").read_text())
    low, high = scores["intervals"]["scores"]["mcc"]
    assert low <= scores["test"]["mcc"] <= high


def test_a_report_written_again_is_the_same(finished: Path):
    before = (finished / "report.html").read_bytes()
    assert write_report(finished) == finished / "report.html"
    assert (finished / "report.html").read_bytes() == before


def test_a_model_that_did_not_keep_its_limit_is_told_it(finished: Path, tmp_path: Path):
    work = shutil.copytree(finished, tmp_path / "work")
    config = json.loads((work / "model" / "config.json").read_text())
    del config["head"]["max_tokens"]
    write_json(work / "model" / "config.json", config)
    assert read(write_report(work)).text.count("--max-tokens 30 --data") == 2
    assert "--max-tokens" not in read(finished / "report.html").text


def test_the_loss_stands_beside_the_unigram_entropy():
    assert pretraining_notes({"loss": 3.0}, 3.5) == []
    [note] = pretraining_notes({"loss": 3.75}, 3.5)
    assert note.startswith("The held-out loss, 3.7500 nats, is not below the unigram entropy of the tokens, 3.5000:")


def test_map_of_test_rows(finished: Path, tmp_path: Path):
    work = shutil.copytree(finished, tmp_path / "work")
    assert embed_test_rows(work, most_rows=10) == work / "test_embeddings.npz"
    with np.load(work / "test_embeddings.npz") as kept:
        assert kept["embeddings"].shape == (10, 32)
        assert np.abs(kept["embeddings"]).max() <= 1  # of the pooler's tanh
        lines = kept["lines"].tolist()
    assert (lines[0], lines[-1], len(set(lines))) == (2, 33, 10)
    write_report(work, "pca")
    assert "10 test rows (pooled [CLS])" in read(work / "report.html").text
    assert (work / "pictures" / "embedding_map.png").is_file()


def test_a_run_that_has_not_finished_is_reported_as_far_as_it_is(finished: Path, tmp_path: Path):
    for name in ("run.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    parsed = read(write_report(tmp_path))
    assert "This run has not finished" in parsed.text
    assert parsed.anchors == {"training", "config"}
    (tmp_path / "metrics.jsonl").unlink()
    assert read(write_report(tmp_path)).anchors == {"config"}


def test_pretraining_writes_a_page(tmp_path: Path):
    corpus = tiny_corpus(tmp_path)
    model = tiny_model(tmp_path / "base", num_hidden_layers=1)
    run = pretrain_run(model.path, corpus.path, training={"steps": 4, "evaluate_every": 4, "save_every": 4})
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        saved = pretrain(run, tmp_path / "work")
    parsed = read(tmp_path / "work" / "report.html")
    assert parsed.anchors == {"training", "time", "data", "use", "config", "made"}
    entropy = json.loads((tmp_path / "work" / "data_report.json").read_text())["unigram_entropy"]
    assert f"{entropy:.4f}\nunigram entropy of the tokens, nats" in parsed.text
    for word in ("first", "second", corpus.hash, f"{saved.provenance['metrics']['loss']:.4f}", "4\nsteps of 4"):
        assert word in parsed.text
    assert f"dnabert2 finetune --workdir runs/task --set model.path={tmp_path}/work/model" in parsed.text
    for name, loss in saved.provenance["metrics"]["loss_by_species"].items():
        assert f"{name}\n{loss:.4f}\n{loss:.4f}\n{loss:.4f}\n4\n" in parsed.text  # one evaluation, at step 4
    for picture in ("training_curves", "species_curves"):
        assert (tmp_path / "work" / "pictures" / f"{picture}.png").is_file()
    with pytest.raises(UserError, match="a run of `dnabert2 pretrain`; a map shows the test rows of a fine-tuning run"):
        embed_test_rows(tmp_path / "work")


def test_mistakes_are_explained(finished: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no run.*name the --workdir"):
        write_report(tmp_path)
    work = shutil.copytree(finished, tmp_path / "work")
    (work / "scores.json").write_text("{")
    with pytest.raises(UserError, match=r"scores\.json is damaged"):
        write_report(work)
    (work / "scores.json").unlink()
    shutil.rmtree(work / "pictures")
    (work / "pictures").write_text("a file in the way")
    with pytest.raises(UserError, match="pictures cannot be written"):
        write_report(work)


def test_labels_with_markup_come_out_as_they_are(tmp_path: Path):
    rows = [(sequence, "<b>" if label == "plain" else "$x_1$") for sequence, label in tiny_rows(12, seed=3)]
    tables = [write_table(tmp_path / f"{name}.csv", rows) for name in ("train", "dev", "test")]
    splits = load_splits(*tables)
    encoded = encode_table(splits.train, tiny_tokenizer(), splits.labels, 64)
    work = tmp_path / "work"
    work.mkdir()
    run = finetune_run(tmp_path, {split: str(path) for split, path in zip(("train", "dev", "test"), tables, strict=True)})
    write_json(work / "run.json", run_to_dict(run))
    probabilities = np.full((12, 2), 0.5)
    test = classification_metrics(encoded.labels, probabilities, splits.labels.names)
    write_json(work / "scores.json", {"test": test, "dev": test, "best_step": 1, "trained_parameters": 5})
    tables = {"train": encoded, "dev": encoded, "test": encoded}
    data = tables_report(splits, tables)
    report_finetuning(work, data, splits, tables, probabilities, kmer_baseline(splits.train, splits))
    parsed = read(work / "report.html")
    assert sum(tag == "b" for tag, _ in parsed.tags) == 7  # the figures at the top
    assert "<b>" in parsed.text
    assert "$x_1$" in parsed.text
    assert "the run collapsed" in parsed.text
    assert "12 of 12 test rows are also in the train table (lines 2, 3, 4, 5, 6, …), 0 of them" in parsed.text
    assert "12 of 12 dev rows are also in the train table" in parsed.text


def test_the_model_that_the_page_names_loads(finished: Path):
    named = re.search(r"dnabert2 predict --model (\S+)", read(finished / "report.html").text)
    assert named is not None
    assert load_model(named.group(1)).labels == ("plain", "rich")
