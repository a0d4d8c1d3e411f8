import json

import pytest

from dnabert2_jax.tokenizer.special import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, with_template


def test_ids_are_those_of_the_released_tokenizer():
    assert [SPECIAL_TOKENS[token] for token in (UNK, CLS, SEP, PAD, MASK)] == ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    assert (UNK, CLS, SEP, PAD, MASK) == (0, 1, 2, 3, 4)


def test_templates():
    assert with_template([7, 8]).tolist() == [1, 7, 8, 2]
    assert with_template([7, 8], [9]).tolist() == [1, 7, 8, 2, 9, 2]


def test_an_empty_second_sequence_is_still_a_pair():
    assert with_template([7], []).tolist() == [1, 7, 2, 2]


def test_templates_match_the_released_post_processor(shared_dir):
    published = json.loads((shared_dir / "data/dnabert2_hf/tokenizer.json").read_text())["post_processor"]
    for name, row in (("single", with_template([7])), ("pair", with_template([7], [8]))):
        steps = [next(iter(step.values())) for step in published[name]]
        sequences = {"A": 7, "B": 8}
        special = {token: spec["ids"][0] for token, spec in published["special_tokens"].items()}
        assert row.tolist() == [(sequences | special)[step["id"]] for step in steps]


@pytest.mark.parametrize("position", range(5))
def test_special_ids_match_the_released_vocabulary(shared_dir, position: int):
    vocabulary = json.loads((shared_dir / "data/dnabert2_hf/tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary[SPECIAL_TOKENS[position]] == position
