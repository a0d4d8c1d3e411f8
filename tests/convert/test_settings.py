"""``config.json`` of either generation, and what is refused in one."""

import json

import pytest

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import NAMED_SIZES
from dnabert2_jax.convert.settings import make_settings, read_settings
from dnabert2_jax.errors import UserError
from tests import parity
from tests.convert.helpers import HEADS
from tests.helpers import tiny_config, tiny_tokenizer


@pytest.fixture
def read(tmp_path):
    def read(remove=(), **changes):
        content = {key: value for key, value in (parity.settings(HEADS) | changes).items() if key not in remove}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        return read_settings(path)

    return read


@pytest.mark.parametrize("name", ["config.json", "config.before_2024-02-22.json"])
def test_both_released_generations(name, shared_dir):
    settings = read_settings(shared_dir / "data" / "dnabert2_hf" / name)
    assert settings.encoder == NAMED_SIZES["117m"]
    assert (settings.labels, settings.num_labels) == (None, None)


def test_sizes_are_taken_and_the_rest_passed_over(read):
    settings = read(alibi_starting_size=4096, transformers_version="9.9", use_cache=False, model_type="bert")
    assert (settings.encoder.hidden_size, settings.encoder.num_attention_heads) == (32, 8)
    assert settings.encoder.layer_norm_eps == 1e-12
    assert read(remove=("type_vocab_size", "layer_norm_eps")).encoder == settings.encoder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', in DNABERT-2 it is 'gelu'; this is another model"),
        ({"model_type": "esm"}, "model_type is 'esm', in DNABERT-2 it is 'bert'"),
        ({"model_type": ["bert"]}, r"model_type is \['bert'\]"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is .* it is 'absolute', 'alibi'"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"remove": ("hidden_size", "vocab_size")}, "vocab_size, hidden_size missing"),
        ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 8"),
        ({"hidden_size": "wide"}, "hidden_size: .* found 'wide'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: .* found -1"),
        ({"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob: .* found nan"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"id2label": {"0": "no", "2": "yes"}}, "id2label is .* wanted is a name for each class"),
        ({"id2label": ["no", "yes"]}, "id2label is .* wanted is a name for each class"),
        ({"id2label": {"0": "no", "1": "no"}}, "id2label names two classes alike"),
        ({"id2label": {"0": "no", "1": "yes"}, "num_labels": 3}, "num_labels is 3, but id2label names 2 classes"),
    ],
    ids=str,
)
def test_refused_settings(read, changes, message):
    with pytest.raises(UserError, match=rf"config\.json: {message}"):
        read(**changes)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_no_settings(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: "):
        read_settings(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_settings(tmp_path)


def test_labels(read):
    assert read(id2label={"0": "no", "1": "yes"}).labels == ("no", "yes")
    # LABEL_n is what transformers writes where nobody gave a name.
    assert read(id2label={"0": "LABEL_0", "1": "LABEL_1"}).labels == ("0", "1")
    assert read(id2label={"1": "yes", "0": "LABEL_0"}).labels == ("LABEL_0", "yes")
    assert (read(num_labels=3).labels, read(num_labels=3).num_labels) == (None, 3)


def test_attention_dropout_is_left_out_with_a_word(read, caplog):
    read(attention_probs_dropout_prob=0.1)
    assert "attention_probs_dropout_prob 0.1 is left out: attention has no dropout here" in caplog.text


def test_what_is_written_is_read_again(tmp_path):
    model = SavedModel(
        kind="classifier", config=tiny_config(), params={}, tokenizer=tiny_tokenizer(), labels=("no", "LABEL_1", "2")
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(make_settings(model)))
    settings = read_settings(path)
    assert (settings.encoder, settings.labels) == (model.config, model.labels)


def test_what_is_written_says_what_the_released_one_says(shared_dir):
    """All that the original's code reads; its repository stands before the names of its modules."""
    config = NAMED_SIZES["117m"]
    model = SavedModel(kind="masked_lm", config=config, params={}, tokenizer=tiny_tokenizer())
    released = json.loads((shared_dir / "data" / "dnabert2_hf" / "config.json").read_text())
    written = make_settings(model)
    modules = {name: module.removeprefix("zhihan1996/DNABERT-2-117M--") for name, module in written["auto_map"].items()}
    assert modules == released["auto_map"]
    about_files = {"auto_map", "_name_or_path", "transformers_version", "use_cache", "gradient_checkpointing"}
    for key in released.keys() - about_files:
        assert written[key] == released[key], key
