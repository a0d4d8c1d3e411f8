import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dnabert2_jax.config.model import NAMED_SIZES, EncoderConfig, LoraConfig, named_size
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.models import count_parameters, masked_lm

GUIDE = Path(__file__).parents[2] / "docs" / "concepts" / "model.md"


@given(
    heads=st.integers(1, 16),
    head_dim=st.integers(1, 64),
    layers=st.integers(1, 24),
    dropout=st.floats(0, 1, exclude_max=True),
    vocab=st.integers(9, 10**6),
)
def test_a_config_comes_back_from_its_dict(heads, head_dim, layers, dropout, vocab):
    config = EncoderConfig(
        vocab_size=vocab,
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        hidden_dropout_prob=dropout,
    )
    assert config.head_dim == head_dim
    assert EncoderConfig(**config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 770}, "hidden_size 770 is not a multiple of num_attention_heads 12"),
        ({"vocab_size": 8}, "greater than or equal to 9"),
        ({"hidden_dropout_prob": 1.0}, "less than 1"),
        ({"num_hidden_layers": 0}, "greater than or equal to 1"),
        ({"layer_norm_eps": 0.0}, "greater than 0"),
        ({"hiden_size": 768}, "hiden_size"),
    ],
)
def test_bad_encoders_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        EncoderConfig(**change)


def test_configs_are_frozen():
    with pytest.raises(FrozenInstanceError):
        EncoderConfig().hidden_size = 5  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        LoraConfig().rank = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_names_say_the_parameters(name):
    millions = count_parameters(masked_lm(named_size(name, 4096)).abstract()) / 1e6
    named = int(name[:-1]) * {"m": 1, "b": 1000}[name[-1]]
    assert millions == pytest.approx(named, rel=0.5)
    assert named_size(name, 300).vocab_size == 300


def test_the_guide_lists_every_size():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [(name, *map(int, sizes)) for name, *sizes in rows] == [
        (name, size.num_hidden_layers, size.hidden_size, size.num_attention_heads, size.intermediate_size)
        for name, size in NAMED_SIZES.items()
    ]


def test_an_unknown_size_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'117M' is unknown; accepted are 1b, 117m, .* \(did you mean '117m'\?\)"):
        named_size("117M", 4096)


def test_lora_settings():
    lora = LoraConfig(rank=4, alpha=10, targets=("wo",))
    assert lora.scale == 2.5
    assert LoraConfig(**lora.to_dict()) == lora
    for change in ({"rank": 0}, {"alpha": 0}, {"dropout": 1}, {"targets": ()}, {"targets": ("query",)}):
        with pytest.raises(ValidationError):
            LoraConfig(**change)
