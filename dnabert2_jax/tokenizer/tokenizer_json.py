"""``tokenizer.json`` and ``tokenizer_config.json`` as this package writes them: the layout of the released DNABERT-2."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dnabert2_jax.tokenizer.base import write_file
from dnabert2_jax.tokenizer.special import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def _step(token: int, type_id: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": SPECIAL_TOKENS[token], "type_id": type_id}}


def _sequence(name: str, type_id: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": type_id}}


_SINGLE = [_step(CLS, 0), _sequence("A", 0), _step(SEP, 0)]
POST_PROCESSOR = {
    "type": "TemplateProcessing",
    "single": _SINGLE,
    "pair": [*_SINGLE, _sequence("B", 1), _step(SEP, 1)],
    "special_tokens": {
        name: {"id": name, "ids": [token], "tokens": [name]}
        for token, name in enumerate(SPECIAL_TOKENS)
        if token in (CLS, SEP)
    },
}
PRE_TOKENIZER = {"type": "Whitespace"}


def write_tokenizer_json(pieces: Sequence[str], merges: Iterable[tuple[str, str]], directory: Path) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into ``directory`` and return the path of the first.

    Args:
        pieces: text of every id, special tokens included.
        merges: the two pieces that each merge joins, in rank order.
        directory: where to write.

    Raises:
        UserError: they cannot be written.
    """
    added = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": name, **added} for token, name in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZER,
        "post_processor": POST_PROCESSOR,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL_TOKENS[UNK],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }
    names = {"unk": UNK, "cls": CLS, "sep": SEP, "pad": PAD, "mask": MASK}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": SPECIAL_TOKENS[token] for name, token in names.items()},
    }
    write_file(directory / TOKENIZER_CONFIG, _json(config))
    return write_file(directory / TOKENIZER_JSON, _json(file))


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
