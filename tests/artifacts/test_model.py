import hashlib
import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter, save_adapter
from dnabert2_jax.artifacts.directory import is_adapter_directory
from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.training import train_bpe
from tests.artifacts.helpers import LABELS, assert_same, with_word


@pytest.mark.parametrize("name", ["pretrained", "classifier"])
def test_a_model_comes_back_as_it_was(tmp_path, name, request):
    model = request.getfixturevalue(name)
    saved = save_model(tmp_path / "deep" / "model", model)
    assert saved.path == tmp_path / "deep" / "model"
    assert sorted(path.name for path in saved.path.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "provenance.json",
        "tokenizer.model",
    ]
    loaded = load_model(saved.path)
    assert loaded.path == saved.path
    assert_same(loaded, model)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded.params))
    assert not is_adapter_directory(saved.path)


def test_provenance_says_how_it_was_made(pretrained):
    provenance = pretrained.provenance
    assert provenance["command"] == ["dnabert2", "pretrain"]
    assert provenance["parents"] == {"corpus": "ab"}
    assert provenance["versions"]["jax"] == jax.__version__
    assert provenance["date"].endswith("+00:00")


def test_saving_twice_replaces_and_leaves_nothing_else(tmp_path, pretrained, classifier):
    save_model(tmp_path / "model", pretrained)
    save_model(tmp_path / "model", classifier)
    assert_same(load_model(tmp_path / "model"), classifier)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_whoever_may_read_one_file_may_read_all(tmp_path, pretrained):
    saved = save_model(tmp_path / "model", pretrained)
    assert len({file.stat().st_mode for file in saved.path.iterdir()}) == 1


def test_an_empty_directory_may_be_used(tmp_path, pretrained):
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", pretrained)
    assert_same(load_model(tmp_path / "model"), pretrained)


def test_nothing_foreign_is_overwritten(tmp_path, pretrained, adapter):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="thesis exists and is not the directory of a model"):
        save_model(tmp_path / "thesis", pretrained)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"

    (tmp_path / "base" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also holds notes\.txt, which replacing it would delete"):
        save_model(tmp_path / "base", pretrained)

    with pytest.raises(UserError, match="base exists and is not the directory of an adapter"):
        save_adapter(tmp_path / "base", adapter)

    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file exists and is not"):
        save_model(tmp_path / "file", pretrained)
    with pytest.raises(UserError, match="could not be written"):
        save_model(tmp_path / "file" / "below", pretrained)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model", "provenance.json"])
def test_damage_is_found(tmp_path, pretrained, name):
    for damage in ("flip", "truncate", "delete"):
        file = save_model(tmp_path / damage, pretrained).path / name
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        elif damage == "truncate":
            file.write_bytes(content[:-1])
        else:
            file.unlink()
        with pytest.raises(UserError) as error:
            load_model(tmp_path / damage)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_damaged_manifest_is_found(tmp_path, pretrained):
    manifest = save_model(tmp_path / "model", pretrained).path / "manifest.json"
    for content in ("", "{", "[]", '{"files": {"config.json": {"size": "many"}}}', '{"files": 3}'):
        manifest.write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            load_model(tmp_path / "model")


def test_what_is_not_a_model_directory(tmp_path, pretrained, adapter):
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_model(tmp_path)
    with pytest.raises(UserError, match=r"holds no adapter\.json"):
        load_adapter(tmp_path / "base")
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        load_model(tmp_path / "huggingface")
    save_adapter(tmp_path / "adapter", adapter)
    with pytest.raises(UserError, match="is an adapter directory, but a model directory is needed"):
        load_model(tmp_path / "adapter")


def rewrite_config(directory: Path, **changes) -> None:
    """A consistent directory with another configuration, as a newer version or an edited file would have it."""
    config = json.loads((directory / "config.json").read_text()) | changes
    content = json.dumps(config).encode()
    (directory / "config.json").write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"]["config.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_contradictions_are_refused_on_reading(tmp_path, pretrained, config):
    path = save_model(tmp_path / "model", pretrained).path
    rewrite_config(path, encoder=config.to_dict() | {"hidden_size": 32})
    with pytest.raises(
        UserError, match=r"word has the shape \(40, 16\), but the configuration has vocab_size 40 and hidden_size 32"
    ):
        load_model(path)
    rewrite_config(path, encoder=config.to_dict() | {"vocab_size": 41})
    with pytest.raises(UserError, match="vocab_size 41"):
        load_model(path)
    rewrite_config(path, encoder=config.to_dict() | {"hiden_size": 41})
    with pytest.raises(UserError, match=r"config\.json: encoder\.hiden_size is 41") as error:
        load_model(path)
    assert "\n" not in str(error.value)
    rewrite_config(path, encoder=config.to_dict(), kind="regressor")
    with pytest.raises(UserError, match="'regressor' is unknown; accepted are masked_lm, classifier"):
        load_model(path)
    rewrite_config(path, format=2)
    with pytest.raises(UserError, match="format 2, accepted is 1"):
        load_model(path)


def test_contradictions_are_refused_on_writing(tmp_path, pretrained, classifier):
    other = train_bpe(["ACGTTGCAAC" * 50], vocab_size=20)
    for model, message in (
        (replace(pretrained, tokenizer=other), "tokenizer has 20 pieces, but the model was made for 40"),
        (replace(pretrained, labels=LABELS), "a masked_lm with the labels"),
        (replace(classifier, labels=("a", "a", "b")), "at least two different"),
        (replace(classifier, labels=("a", "b")), r"classifier\.bias has the shape \(3,\), but there are 2 labels"),
        (replace(pretrained, params={"mlm": pretrained.params["mlm"]}), r"tensor encoder\.embeddings\.word is missing"),
    ):
        with pytest.raises(UserError, match=message):
            save_model(tmp_path / "model", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, pretrained, value):
    def poison(word):
        word[3, 4] = value
        return word

    save_model(tmp_path / "model", pretrained)
    with pytest.raises(UserError, match=r"tensor encoder\.embeddings\.word holds 1 values of 640 that are NaN or infinite"):
        save_model(tmp_path / "model", with_word(pretrained, poison))
    assert_same(load_model(tmp_path / "model"), pretrained)


def test_bfloat16_and_strided_weights_come_back(tmp_path, pretrained):
    model = with_word(pretrained, lambda word: np.ascontiguousarray(word.T).T.astype(ml_dtypes.bfloat16, order="K"))
    word = model.params["encoder"]["embeddings"]["word"]
    assert not word.flags.c_contiguous, "safetensors would write such an array transposed"
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").params["encoder"]["embeddings"]["word"]
    assert loaded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(loaded, word)


def test_a_full_disk_leaves_the_old_model(tmp_path, pretrained):
    save_model(tmp_path / "model", pretrained)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=r"could not be written.*make room"):
            save_model(tmp_path / "model", with_word(pretrained, lambda word: word + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(load_model(tmp_path / "model"), pretrained)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


KILLED = """
import os, signal, sys
from dataclasses import replace
from dnabert2_jax.artifacts.model import load_model, save_model

path, event, start = sys.argv[1:]
model = load_model(path)
model.params["encoder"]["embeddings"]["word"] += 1
sys.addaudithook(
    lambda name, args: name == event and str(args[0]).endswith(start) and os.kill(os.getpid(), signal.SIGKILL)
)
save_model(path, model)
"""


@pytest.mark.parametrize(
    ("event", "ending", "survivor"),
    [
        ("os.mkdir", "/.model.partial", "old"),
        ("open", "config.json.partial", "old"),
        ("os.rename", "manifest.json.partial", "old"),
        ("os.rename", "/model", "old"),
        ("os.rename", "/.model.partial", "old"),
        ("shutil.rmtree", "/.model.previous", "new"),
    ],
)
def test_killed_while_saving_the_old_or_the_new_model_is_there(tmp_path, pretrained, event, ending, survivor):
    save_model(tmp_path / "model", pretrained)
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "model"), event, ending], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    expected = pretrained if survivor == "old" else with_word(pretrained, lambda word: word + 1)
    assert_same(load_model(tmp_path / "model"), expected)
    save_model(tmp_path / "model", pretrained)
    assert_same(load_model(tmp_path / "model"), pretrained)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
