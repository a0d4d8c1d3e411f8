import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.tokenizer.special import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, template_type_ids, with_template

ids = st.lists(st.integers(5, 4095), max_size=8)


def test_ids_are_those_of_the_released_tokenizer():
    assert [SPECIAL_TOKENS[token] for token in (UNK, CLS, SEP, PAD, MASK)] == ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    assert (UNK, CLS, SEP, PAD, MASK) == (0, 1, 2, 3, 4)


def test_templates():
    assert with_template([7, 8]).tolist() == [1, 7, 8, 2]
    assert with_template([7, 8], [9]).tolist() == [1, 7, 8, 2, 9, 2]
    assert template_type_ids(2).tolist() == [0, 0, 0, 0]
    assert template_type_ids(2, 1).tolist() == [0, 0, 0, 0, 1, 1]


def test_an_empty_second_sequence_is_still_a_pair():
    assert with_template([7], []).tolist() == [1, 7, 2, 2]
    assert template_type_ids(1, 0).tolist() == [0, 0, 0, 1]


@given(ids, st.none() | ids)
def test_type_ids_change_behind_the_first_sep(a: list[int], b: list[int] | None):
    row = with_template(a, b)
    types = template_type_ids(len(a), None if b is None else len(b))
    assert types.shape == row.shape
    assert types.dtype == row.dtype == "int32"
    assert row[types == 0].tolist() == [CLS, *a, SEP]
    assert row[types == 1].tolist() == ([] if b is None else [*b, SEP])


def test_templates_match_the_released_post_processor(shared_dir):
    published = json.loads((shared_dir / "data/dnabert2_hf/tokenizer.json").read_text())["post_processor"]
    for name, row, types in (
        ("single", with_template([7]), template_type_ids(1)),
        ("pair", with_template([7], [8]), template_type_ids(1, 1)),
    ):
        steps = [next(iter(step.values())) for step in published[name]]
        sequences = {"A": 7, "B": 8}
        special = {token: spec["ids"][0] for token, spec in published["special_tokens"].items()}
        assert row.tolist() == [(sequences | special)[step["id"]] for step in steps]
        assert types.tolist() == [step["type_id"] for step in steps]


@pytest.mark.parametrize("position", range(5))
def test_special_ids_match_the_released_vocabulary(shared_dir, position: int):
    vocabulary = json.loads((shared_dir / "data/dnabert2_hf/tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary[SPECIAL_TOKENS[position]] == position
