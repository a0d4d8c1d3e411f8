"""The main commands in processes of their own, one after the other on tiny data: what they write, say and end with."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.genome import Corpus
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.training.workdir import MetricsLog
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import finetune_content, pretrain_content, tiny_model, tiny_task, write_run
from tests.processes import run_cli


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two genomes, a task and a small model to start from; commands run here, so that paths stay short."""
    path = tmp_path_factory.mktemp("cli")
    for seed, name in enumerate(("first", "second")):
        write_fasta(path / f"{name}.fa", {"chr": random_dna(20_000, seed).lower()})
    tiny_task(path)
    tiny_model(path / "base")
    tables = {split: f"{split}.csv" for split in ("train", "dev", "test")}
    write_run(path / "pretrain.toml", "pretrain", pretrain_content(Path("base"), Path("corpus")))
    write_run(path / "finetune.toml", "finetune", finetune_content(Path("elsewhere"), tables))
    return path


def done(home: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A command that has to succeed: its last line names what it saved."""
    result = run_cli(*arguments, cwd=home)
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    saved = re.fullmatch(r"saved (\S+?)(, scores in (\S+))?", last)
    assert saved, last
    assert (home / saved[1]).exists()
    assert saved[3] is None or (home / saved[3]).is_file()
    return result


@pytest.fixture(scope="module")
def corpus(home):
    options = ("--validation-fraction", "0.1", "--validation-block", "500")
    return done(home, "corpus", "build", "--out", "corpus", "[bold]one=first.fa", "second.fa", *options)


@pytest.fixture(scope="module")
def pretrained(home, corpus):
    return done(home, "pretrain", "--config", "pretrain.toml", "--workdir", "pretrained", "--set", "training.log_every=3")


@pytest.fixture(scope="module")
def finetuned(home, pretrained):
    settings = ("--set", "model.path=pretrained/model", "--set", "training.method=lora")
    return done(home, "finetune", "--config", "finetune.toml", "--workdir", "finetuned", *settings)


def test_corpus_build(home, corpus):
    assert corpus.stdout == "saved corpus\n"
    assert [species.name for species in Corpus.open(home / "corpus").species] == ["[bold]one", "second"]
    assert "[bold]one" in corpus.stderr  # names are text, not mark-up
    assert "20,000" in corpus.stderr  # lower-case letters, counted


def test_tokenizer_train(home, corpus):
    trained = done(home, "tokenizer", "train", "--corpus", "corpus", "--out", "tokenizer", "--vocab-size", 64)
    assert trained.stdout == "saved tokenizer/tokenizer.model\n"
    assert Tokenizer.load(home / "tokenizer").vocab_size == 64
    assert "64 pieces; the longest is" in trained.stderr


def test_pretrain(home, pretrained):
    assert pretrained.stdout.endswith("/pretrained/model\n")
    assert re.search(r"held-out loss \d\.\d+ nats per token, perplexity \d+\.\d, masked accuracy 0\.\d+", pretrained.stderr)
    assert load_model(home / "pretrained" / "model").kind == "masked_lm"
    steps = [line["step"] for line in MetricsLog.read(home / "pretrained") if "loss" in line]
    assert steps == [3, 6, 9, 12]  # --set reached the run


def test_finetune(home, finetuned):
    scores = json.loads((home / "finetuned" / "scores.json").read_text())
    assert f"test MCC {scores['test']['mcc']:.4f}" in finetuned.stderr
    assert "the adapter alone is in finetuned/adapter" in finetuned.stderr
    warnings = re.findall(r"warning: (.*)", finetuned.stderr)
    page = (home / "finetuned" / "report.html").read_text()
    notes = re.findall(r'<p class="note">(.*?)</p>', page)
    assert notes
    assert {warning.replace("'", "&#39;") for warning in warnings} == set(notes)
    assert load_model(home / "finetuned" / "model").labels == ("plain", "rich")


def test_evaluate_model_and_adapter(home, finetuned):
    reported = json.loads((home / "finetuned" / "scores.json").read_text())["test"]
    for model, out in (("finetuned/model", "model.json"), ("finetuned/adapter", "adapter.json")):
        evaluated = done(home, "evaluate", "--model", model, "--data", "test.csv", "--out", out)
        scores = json.loads((home / out).read_text())
        assert scores["confusion_matrix"] == reported["confusion_matrix"]
        assert scores["auroc"] == pytest.approx(reported["auroc"], abs=1e-3)
        assert f"MCC {scores['mcc']:.4f}" in evaluated.stderr


def test_help_of_the_command_itself_is_quick_and_loads_no_jax(home):
    loaded = "import sys; from dnabert2_jax.cli import main; sys.argv = ['dnabert2', '--help']\n"
    loaded += "try: main()\nexcept SystemExit as end: print(end.code, 'jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, cwd=home, check=True)
    assert result.stdout.splitlines()[-1] == "0 False"
    for command in ("tokenizer", "corpus", "pretrain", "finetune", "evaluate", "quickstart"):
        assert command in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pretrain", "--config", "missing.toml", "--workdir", "x"], "missing.toml: cannot be read"),
        (["pretrain", "--config", "pretrain.toml", "--workdir", "x", "--set", "training.step=1"], "did you mean 'steps'?"),
    ],
    ids=["missing file", "unknown key"],
)
def test_what_a_user_can_fix_is_one_line_and_exit_code_2(home, arguments, says):
    result = run_cli(*arguments, cwd=home)
    assert result.returncode == 2
    assert re.fullmatch(rf"dnabert2: .*{re.escape(says)}.*\n", result.stderr)
    assert result.stdout == ""
    assert not (home / "x").exists()
