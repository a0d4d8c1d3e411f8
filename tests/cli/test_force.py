"""What exists is refused by every command that writes, and replaced with --force; --force deletes nothing else."""

from pathlib import Path

import pytest

from dnabert2_jax.artifacts.adapter import SavedAdapter, save_adapter
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from tests.helpers import tiny_corpus, tiny_model

COMMANDS = {
    "corpus build first.fa --out": "out",
    "tokenizer train --corpus corpus --vocab-size 64 --out": "out/tokenizer.model",
    "tokenizer kmer --k 3 --out": "out/kmer_tokenizer.json",
    "tokenizer export base --out": "out/tokenizer.json",
    "merge adapter --out": "out",
    "convert to-hf base": "out",
    "convert to-peft adapter": "out",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("home")
    tiny_corpus(path)
    base = tiny_model(path / "base")
    heads = sequence_classifier(base.config, 2).init(0)
    lora = LoraConfig(rank=2)
    params = {"adapter": init_adapter(base.config, lora, 0), "pooler": heads["pooler"], "classifier": heads["classifier"]}
    save_adapter(path / "adapter", SavedAdapter(base=base, params=params, lora=lora, labels=("no", "yes")))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_what_exists_is_replaced_only_with_force(command, home, tmp_path, dnabert2, monkeypatch):
    monkeypatch.chdir(home)
    out = tmp_path / "out"
    call = [*command.split(), out]
    assert dnabert2(*call)[0] == 0
    code, printed, errors = dnabert2(*call)
    assert (code, printed) == (2, "")
    assert f"{tmp_path / COMMANDS[command]} exists; choose another name, or replace it with --force" in errors
    assert dnabert2(*call, "--force")[0] == 0


@pytest.mark.parametrize("command", [command for command, file in COMMANDS.items() if file == "out"])
def test_force_does_not_delete_a_directory_of_another_kind(command, home, tmp_path, dnabert2, monkeypatch):
    monkeypatch.chdir(home)
    thesis = tmp_path / "out" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    code, _, errors = dnabert2(*command.split(), thesis.parent, "--force")
    assert code == 2
    assert "is not" in errors
    assert thesis.exists()
