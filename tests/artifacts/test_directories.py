import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from dnabert2_jax.artifacts.adapter import SavedAdapter, load_adapter, merged, save_adapter
from dnabert2_jax.artifacts.directory import is_adapter_directory
from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.artifacts.tensors import flatten_tree, tree_sha256, unflatten_tree
from dnabert2_jax.config.model import EncoderConfig, HeadConfig, LoraConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.tokenizer.training import train_bpe

LABELS = ("coding+", "coding-", "intergenic")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["".join(np.random.default_rng(0).choice(list("ACGT"), 5000))], vocab_size=40)


@pytest.fixture(scope="module")
def config(tokenizer) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )


@pytest.fixture(scope="module")
def pretrained(tokenizer, config) -> SavedModel:
    provenance = make_provenance(
        ["dnabert2", "pretrain"], run_config={"seed": 1}, parents={"corpus": "ab"}, metrics={"loss": 2.5}
    )
    return SavedModel(
        kind="masked_lm", config=config, params=masked_lm(config).init(0), tokenizer=tokenizer, provenance=provenance
    )


@pytest.fixture(scope="module")
def classifier(tokenizer, config) -> SavedModel:
    params = sequence_classifier(config, len(LABELS)).init(1)
    return SavedModel(kind="classifier", config=config, params=params, tokenizer=tokenizer, labels=LABELS)


@pytest.fixture
def adapter(tmp_path, pretrained, classifier) -> SavedAdapter:
    lora = LoraConfig(rank=2, targets=("Wqkv", "wo"))
    params = {
        "adapter": init_adapter(pretrained.config, lora, 3),
        **{k: classifier.params[k] for k in ("pooler", "classifier")},
    }
    return SavedAdapter(base=save_model(tmp_path / "base", pretrained), params=params, lora=lora, labels=LABELS)


def test_how_a_classifier_reads_a_sequence_comes_back(tmp_path, classifier, adapter):
    """And a head like the original's leaves no entry: directories of earlier versions, which have none, mean the same."""
    for head in (HeadConfig(pooling="mean", token_types=False), HeadConfig(token_types=False), HeadConfig()):
        model = save_model(tmp_path / "model", replace(classifier, head=head))
        assert load_model(model.path).head == head
        lora = save_adapter(tmp_path / "adapter", replace(adapter, head=head))
        assert load_adapter(lora.path).head == merged(load_adapter(lora.path)).head == head
        for file in (model.path / "config.json", lora.path / "adapter.json"):
            assert ("head" in json.loads(file.read_text())) == (head != HeadConfig())


def with_word(model: SavedModel, change) -> SavedModel:
    """The model with other word embeddings."""
    encoder = model.params["encoder"]
    embeddings = {**encoder["embeddings"], "word": change(np.array(encoder["embeddings"]["word"]))}
    return replace(model, params={**model.params, "encoder": {**encoder, "embeddings": embeddings}})


def assert_same(loaded: SavedModel, model: SavedModel) -> None:
    assert tree_sha256(loaded.params) == tree_sha256(model.params)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)
    assert loaded.tokenizer.sha256 == model.tokenizer.sha256
    for name in ("kind", "config", "labels", "provenance"):
        assert getattr(loaded, name) == getattr(model, name)


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


names = st.text("abcXYZ_0", min_size=1, max_size=4)
leaves = hnp.arrays(st.sampled_from([np.float32, np.uint8]), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
trees = st.dictionaries(
    names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3)), max_size=4
)


@given(trees)
def test_flatten_and_unflatten_are_inverse(tree):
    back = unflatten_tree(flatten_tree(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert tree_sha256(back) == tree_sha256(tree)


def test_the_hash_tells_path_dtype_shape_and_bytes_apart():
    base = np.arange(6, dtype=np.float32)
    variants = [
        {"a": base},
        {"b": base},
        {"a": {"b": base}},
        {"a": base.view(np.int32)},
        {"a": base.reshape(2, 3)},
        {"a": base + 1},
        {"a": base, "b": base},
    ]
    assert len({tree_sha256(tree) for tree in variants}) == len(variants)
    assert tree_sha256({"a": base, "b": base + 1}) == tree_sha256({"b": base + 1, "a": jax.numpy.asarray(base)})
    # Fixed for good: adapters name their base by it.
    assert tree_sha256({"a": base}) == "fc5a7daec27a126fd35c412465cad0e9e18ade5cb19893305049af7fae43e604"


def test_a_name_with_a_dot_is_refused():
    with pytest.raises(ValueError, match=r"'a\.b\.c' contains a '\.'"):
        flatten_tree({"a": {"b.c": np.zeros(1)}})


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
    child = subprocess.run([other, "-c", OTHER, str(tmp_path)], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert str(sys.version_info[:2]) not in child.stdout, "the other interpreter is of the same version"
    assert child.stdout.split()[2:] == [tree_sha256(adapter.params), tree_sha256(adapter.base.params)]
    theirs = load_adapter(tmp_path / "theirs" / "adapter")
    assert tree_sha256(theirs.params) == tree_sha256(adapter.params)
    assert_same(theirs.base, adapter.base)
