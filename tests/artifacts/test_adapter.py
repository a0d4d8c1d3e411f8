import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from dnabert2_jax.artifacts.adapter import load_adapter, merged, save_adapter
from dnabert2_jax.artifacts.directory import is_adapter_directory
from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.model import HeadConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.training import train_bpe
from tests.artifacts.helpers import LABELS, assert_same, with_word


def test_how_a_classifier_reads_a_sequence_comes_back(tmp_path, classifier, adapter):
    """And a head like the original's leaves no entry: directories of earlier versions, which have none, mean the same."""
    for head in (HeadConfig(pooling="mean", token_types=False), HeadConfig(token_types=False), HeadConfig()):
        model = save_model(tmp_path / "model", replace(classifier, head=head))
        assert load_model(model.path).head == head
        lora = save_adapter(tmp_path / "adapter", replace(adapter, head=head))
        assert load_adapter(lora.path).head == merged(load_adapter(lora.path)).head == head
        for file in (model.path / "config.json", lora.path / "adapter.json"):
            assert ("head" in json.loads(file.read_text())) == (head != HeadConfig())


def test_an_adapter_comes_back_with_its_base(tmp_path, adapter, pretrained):
    saved = save_adapter(tmp_path / "adapter", adapter)
    assert is_adapter_directory(saved.path)
    for loaded in (load_adapter(saved.path), load_adapter(saved.path, base=pretrained)):
        assert tree_sha256(loaded.params) == tree_sha256(adapter.params)
        assert (loaded.lora, loaded.labels, loaded.path) == (adapter.lora, LABELS, saved.path)
        assert_same(loaded.base, pretrained)


def test_an_adapter_file_holds_the_adapter_and_the_heads_alone(tmp_path, adapter, config):
    path = save_adapter(tmp_path / "adapter", adapter).path
    tensors = load_file(path / "adapter.safetensors")
    assert sorted(tensors) == [
        "adapter.Wqkv.A",
        "adapter.Wqkv.B",
        "adapter.wo.A",
        "adapter.wo.B",
        "classifier.bias",
        "classifier.kernel",
        "pooler.dense.bias",
        "pooler.dense.kernel",
    ]
    scalars = 2 * 2 * (16 + 48 + 24 + 16) + (16 * 3 + 3) + (16 * 16 + 16)
    assert sum(tensor.size for tensor in tensors.values()) == scalars
    header = 1000
    assert scalars * 4 < (path / "adapter.safetensors").stat().st_size < scalars * 4 + header
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
        "manifest.json",
        "provenance.json",
    ]


def test_a_wrong_base_is_refused_with_both_hashes(tmp_path, adapter, pretrained):
    path = save_adapter(tmp_path / "adapter", adapter).path
    other = with_word(pretrained, lambda word: word + 1)
    with pytest.raises(UserError) as error:
        load_adapter(path, base=other)
    assert tree_sha256(pretrained.params["encoder"]) in str(error.value)
    assert tree_sha256(other.params["encoder"]) in str(error.value)
    save_model(tmp_path / "base", other)
    with pytest.raises(UserError, match="trained on a base whose encoder has sha256"):
        load_adapter(path)


def test_another_tokenizer_is_refused(tmp_path, adapter, pretrained):
    path = save_adapter(tmp_path / "adapter", adapter).path
    other = train_bpe(["".join(np.random.default_rng(1).choice(list("ACGT"), 5000))], vocab_size=40)
    with pytest.raises(UserError, match="trained on a base whose tokenizer has sha256"):
        load_adapter(path, base=replace(pretrained, tokenizer=other))


def test_the_base_may_move_with_the_adapter_or_stay_behind(tmp_path, adapter):
    save_adapter(tmp_path / "run" / "adapter", adapter)
    shutil.move(tmp_path / "run" / "adapter", tmp_path / "elsewhere")
    assert load_adapter(tmp_path / "elsewhere").base.path == tmp_path / "base"  # by its absolute path

    save_adapter(
        tmp_path / "project" / "adapter", replace(adapter, base=save_model(tmp_path / "project" / "b", adapter.base))
    )
    shutil.move(tmp_path / "project", tmp_path / "moved")
    assert load_adapter(tmp_path / "moved" / "adapter").base.path == tmp_path / "moved" / "b"  # by its relative path

    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match=r"its base model is neither at .* nor at .*base; give the directory of the base"):
        load_adapter(tmp_path / "elsewhere")


def test_one_place_of_the_base_is_named_once(tmp_path, adapter):
    save_adapter(tmp_path / "adapter", adapter)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match=r"its base model is not at .*; give the directory of the base") as error:
        load_adapter(tmp_path / "adapter")
    assert str(error.value).count(str(tmp_path / "base")) == 1


def test_an_adapter_needs_a_base_with_a_directory(tmp_path, adapter, pretrained):
    with pytest.raises(ValueError, match="save the base with save_model"):
        save_adapter(tmp_path / "adapter", replace(adapter, base=pretrained))


def test_damage_to_an_adapter_is_found(tmp_path, adapter):
    path = save_adapter(tmp_path / "adapter", adapter).path
    with (path / "adapter.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(UserError, match=r"adapter\.safetensors is damaged: sha256"):
        load_adapter(path)


OTHER = """
import sys
from dataclasses import replace
from pathlib import Path
from dnabert2_jax.artifacts.adapter import load_adapter, save_adapter
from dnabert2_jax.artifacts.model import save_model
from dnabert2_jax.artifacts.tensors import tree_sha256

here = Path(sys.argv[1])
adapter = load_adapter(here / "adapter")
base = save_model(here / "theirs" / "base", adapter.base)
save_adapter(here / "theirs" / "adapter", replace(adapter, base=base))
print(sys.version_info[:2], tree_sha256(adapter.params), tree_sha256(base.params))
"""


def test_another_python_reads_what_this_one_wrote_and_back(tmp_path, adapter):
    other = os.environ.get("DNABERT2_OTHER_PYTHON")
    if not other:
        pytest.skip("no second interpreter; set DNABERT2_OTHER_PYTHON to one that has dnabert2_jax installed")
    save_adapter(tmp_path / "adapter", adapter)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # it may have another XLA
    child = subprocess.run([other, "-c", OTHER, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert str(sys.version_info[:2]) not in child.stdout, "the other interpreter is of the same version"
    assert child.stdout.split()[2:] == [tree_sha256(adapter.params), tree_sha256(adapter.base.params)]
    theirs = load_adapter(tmp_path / "theirs" / "adapter")
    assert tree_sha256(theirs.params) == tree_sha256(adapter.params)
    assert_same(theirs.base, adapter.base)
