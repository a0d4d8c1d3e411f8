"""The conversion table: complete, exact both ways, and strict."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.artifacts.tensors import flatten_tree
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.convert.names import DECODER, TABLE, WORD, from_theirs, kind_of, our_shapes, plain_names, to_theirs
from dnabert2_jax.errors import UserError
from tests import parity
from tests.convert.helpers import HEADS, InMemory, tensors

SOURCE = Path("model.safetensors")
KINDS = ("masked_lm", "classifier")
SETTINGS = parity.settings(HEADS)
CONFIG = EncoderConfig(**{key: SETTINGS[key] for key in EncoderConfig.__dataclass_fields__ if key in SETTINGS})
LAYER = "bert.encoder.layer"


def convert(given, kind="masked_lm", config=CONFIG):
    return from_theirs(InMemory(given), config, kind, len(parity.LABELS), SOURCE)


def refused(given, kind="masked_lm", config=CONFIG):
    with pytest.raises(UserError) as error:
        convert(given, kind, config)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_names_every_parameter_once(kind):
    ours = [row.ours for row in TABLE[kind]]
    assert sorted(ours) == sorted(our_shapes(CONFIG, kind, len(parity.LABELS)))
    assert len({row.theirs for row in TABLE[kind]}) == len(TABLE[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bitwise(kind):
    given = tensors(kind)
    params = convert(given, kind)
    back = to_theirs(params, kind)
    assert back.keys() == given.keys()
    for name, tensor in given.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].tobytes() == tensor.tobytes()
    again = convert(back, kind)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, again))


def test_where_the_numbers_go():
    given = tensors()
    flat = flatten_tree(convert(given))
    hidden = CONFIG.hidden_size
    for layer in range(CONFIG.num_hidden_layers):
        wqkv = given[f"{LAYER}.{layer}.attention.self.Wqkv.weight"]
        assert flat["encoder.layers.Wqkv.kernel"][layer, 3, hidden + 5] == wqkv[hidden + 5, 3]  # a key's weight
        assert flat["encoder.layers.feed_forward_norm.bias"][layer, 7] == given[f"{LAYER}.{layer}.mlp.layernorm.bias"][7]
    assert flat["encoder.embeddings.word"][9, 2] == given[WORD][9, 2]
    assert flat["mlm.bias"][11] == given["cls.predictions.decoder.bias"][11]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_widened_exactly(dtype):
    narrow = {name: tensor.astype(dtype) for name, tensor in tensors().items()}
    params = convert(narrow)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    for name, tensor in to_theirs(params, "masked_lm").items():
        np.testing.assert_array_equal(tensor, narrow[name].astype(np.float32))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"model.{name}",
        lambda name: f"model.module._orig_mod.{name}",
        lambda name: name.removeprefix("bert."),
        lambda name: f"bert.{name}" if name.startswith("bert.") else name,
        lambda name: f"module.{name.removeprefix('bert.')}",
    ],
    ids=["module", "model", "three", "no_bert", "two_berts", "module_and_no_bert"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_of_other_peoples_training(kind, rename):
    given = tensors(kind)
    renamed = {rename(name): tensor for name, tensor in given.items()}
    assert kind_of(plain_names(renamed, SOURCE), SOURCE) == kind
    found, expected = convert(renamed, kind), convert(given, kind)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))


def test_buffers_are_passed_over_by_name():
    given = tensors() | {
        "bert.embeddings.position_ids": np.arange(512)[None],
        "bert.embeddings.token_type_ids": np.zeros((1, 512), np.int64),
        "bert.encoder.alibi": np.zeros((1, HEADS, 4, 4), np.float32),
    }
    convert(given)
    assert "bert.embeddings.positions is unknown" in refused(given | {"bert.embeddings.positions": np.zeros(3)})


def test_the_tied_decoder():
    given = tensors()
    with_copy = given | {DECODER: given[WORD].copy()}
    assert jax.tree.all(jax.tree.map(np.array_equal, convert(with_copy), convert(given)))
    assert DECODER not in to_theirs(convert(with_copy), "masked_lm")
    with_copy[DECODER][3, 3] += 1
    assert f"{DECODER} differs from {WORD}, to which DNABERT-2 ties it" in refused(with_copy)
    assert f"{DECODER} has the shape (64, 31), expected is (64, 32)" in refused(given | {DECODER: given[WORD][:, :31]})


def test_everything_wrong_is_listed_at_once():
    given = tensors()
    del given["bert.embeddings.LayerNorm.bias"], given[f"{LAYER}.1.mlp.wo.bias"]
    given["cls.predictions.bias"] = np.zeros(64, np.float32)
    given[f"{LAYER}.0.mlp.wo.weight"] = given[f"{LAYER}.0.mlp.wo.weight"].T
    assert refused(given) == (
        "model.safetensors: not the tensors of a masked_lm of the sizes in config.json: "
        f"bert.embeddings.LayerNorm.bias is missing; {LAYER}.1.mlp.wo.bias is missing; cls.predictions.bias is unknown; "
        f"{LAYER}.0.mlp.wo.weight has the shape (48, 32), expected is (32, 48)"
    )


def test_bad_numbers_are_listed_at_once():
    given = tensors()
    given["bert.embeddings.LayerNorm.weight"][[1, 2]] = np.nan, np.inf
    given[f"{LAYER}.1.attention.self.Wqkv.bias"][0] = -np.inf
    given["cls.predictions.decoder.bias"] = given["cls.predictions.decoder.bias"].astype(np.float64)
    given["bert.embeddings.LayerNorm.bias"] = given["bert.embeddings.LayerNorm.bias"].astype(np.complex64)
    message = refused(given)
    assert "bert.embeddings.LayerNorm.bias is complex64, accepted are float32, float16, bfloat16" in message
    assert "bert.embeddings.LayerNorm.weight holds 2 values of 32 that are NaN or infinite" in message
    assert f"{LAYER}.1.attention.self.Wqkv.bias holds 1 values of 96 that are NaN or infinite" in message
    assert "cls.predictions.decoder.bias is float64, accepted are float32, float16, bfloat16" in message


def test_sizes_of_another_model():
    given = tensors()
    changed = EncoderConfig(**{**CONFIG.to_dict(), "hidden_size": 40})
    assert f"{WORD} has the shape (64, 32), expected is (64, 40)" in refused(given, config=changed)
    # The number of layers is compared before anything is made for each of them.
    deep = EncoderConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 10**12})
    assert "holds 2 layers, but config.json has num_hidden_layers 1000000000000" in refused(given, config=deep)


@pytest.mark.parametrize(
    ("extra", "advice"),
    [
        (f"{LAYER}.0.attention.self.query.weight", "query, key and value apart are BERT's or multimolecule's layout"),
        (f"{LAYER}.0.attention.self.Wqkv.lora_A.weight", "`dnabert2 convert from-peft`"),
    ],
)
def test_advice_about_other_layouts(extra, advice):
    assert advice in refused(tensors() | {extra: np.zeros((2, 2), np.float32)})


def test_an_unknown_prefix_is_named():
    renamed = {f"backbone.{name}": tensor for name, tensor in tensors().items()}
    with pytest.raises(UserError, match=r"remove the prefix 'backbone\.' from the names"):
        kind_of(plain_names(renamed, SOURCE), SOURCE)


def test_two_names_of_one_tensor():
    given = tensors()
    with pytest.raises(UserError, match=rf"tensors {WORD} and embeddings\S+ both mean {WORD}; keep one of them"):
        plain_names([*given, WORD.removeprefix("bert.")], SOURCE)


def test_an_encoder_by_itself_is_no_model():
    bare = [name for name in tensors() if name.startswith("bert.")]
    with pytest.raises(UserError, match="an encoder by itself is not a model here: save it as BertForMaskedLM"):
        kind_of(bare, SOURCE)


@given(st.lists(st.text("bert.modulx_", max_size=20), max_size=8, unique=True))
def test_any_names_are_renamed_or_refused(names):
    try:
        plain = plain_names(names, SOURCE)
    except UserError:
        return
    assert sorted(plain.values()) == sorted(names)
