"""``tokenizer.json``, the file of Hugging Face's ``tokenizers``: the released DNABERT-2's read, and one's own written.

The file is data: a vocabulary, a list of merges, and what happens before and after. Everything in it that has a say in the
ids is compared with what this package does, and any other value is refused, so a file that loads gives the same ids here as
there. Three things are passed over on purpose: padding and truncation (settings of the last call of whoever saved the file)
and the decoder.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.base import write_file
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.special import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def _step(token: int, type_id: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": SPECIAL_TOKENS[token], "type_id": type_id}}


def _sequence(name: str, type_id: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": type_id}}


_SINGLE = [_step(CLS, 0), _sequence("A", 0), _step(SEP, 0)]
_POST_PROCESSOR = {
    "type": "TemplateProcessing",
    "single": _SINGLE,
    "pair": [*_SINGLE, _sequence("B", 1), _step(SEP, 1)],
    "special_tokens": {
        name: {"id": name, "ids": [token], "tokens": [name]}
        for token, name in enumerate(SPECIAL_TOKENS)
        if token in (CLS, SEP)
    },
}
_PRE_TOKENIZER = {"type": "Whitespace"}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _AddedToken(_Strict):
    id: int
    content: str


class _Bpe(_Strict):
    """The ``model`` section; a key unknown here could change the ids, so there must be none."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["BPE"]
    vocab: dict[str, int]
    merges: list[str] | list[list[str]]
    unk_token: Literal["[UNK]"]
    fuse_unk: Literal[False] = False
    dropout: None = None
    continuing_subword_prefix: Literal[""] | None = None
    end_of_word_suffix: Literal[""] | None = None
    byte_fallback: Literal[False] = False
    ignore_merges: Literal[False] = False


class _TokenizerJson(_Strict):
    bpe: _Bpe = Field(alias="model")  # pydantic keeps names that start with "model" to itself
    added_tokens: list[_AddedToken]
    normalizer: None
    pre_tokenizer: dict[str, Any]
    post_processor: dict[str, Any]


def read_tokenizer_json(content: bytes, *, source: str) -> BpeTokenizer:
    """The tokenizer that a ``tokenizer.json`` describes.

    Args:
        content: of the file.
        source: its name, for error messages.

    Raises:
        UserError: damaged, or a tokenizer whose ids this package would not reproduce exactly.
    """

    def refuse(found: str, accepted: str) -> UserError:
        return UserError(
            f"{source}: {found}; accepted is {accepted}; the file is damaged, or is not that of a DNABERT-2 model"
        )

    try:
        file = _TokenizerJson.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        # The input of these two is the file, or most of it.
        value = "" if first["type"] in ("json_invalid", "missing") else f" (found {_short(first['input'])})"
        raise refuse(f"{where}: {first['msg']}{value}", "the layout of the released model") from error
    for key, found, accepted in (
        ("added_tokens", [(token.id, token.content) for token in file.added_tokens], list(enumerate(SPECIAL_TOKENS))),
        ("pre_tokenizer", file.pre_tokenizer, _PRE_TOKENIZER),
        ("post_processor", file.post_processor, _POST_PROCESSOR),
    ):
        if found != accepted:
            raise refuse(f"{key} is {_short(found)}", _short(accepted))

    vocabulary = file.bpe.vocab
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    for number, piece in enumerate(pieces):
        if vocabulary[piece] != number:
            raise refuse(f"id {vocabulary[piece]} ({piece!r}) stands where id {number} should", "ids without a gap")
    tokenizer = BpeTokenizer.from_pieces(pieces, source=source)
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in file.bpe.merges]
    expected = [pair for pair in tokenizer.merges() if pair is not None]
    for number, (merge, pair) in enumerate(zip(merges, expected, strict=False)):
        if merge != pair:
            raise refuse(
                f"merge {number} is {' '.join(merge)!r}", f"{' '.join(pair)!r}, to which the order of the ids leads"
            )
    if len(merges) != len(expected):
        raise refuse(f"{len(merges)} merges", f"{len(expected)}, as many as the vocabulary has pieces to join")
    return tokenizer


def write_tokenizer_json(tokenizer: BpeTokenizer, directory: Path) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into ``directory`` and return the path of the first.

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
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": _POST_PROCESSOR,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL_TOKENS[UNK],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": {piece: number for number, piece in enumerate(tokenizer.pieces)},
            "merges": [" ".join(pair) for pair in tokenizer.merges() if pair is not None],
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


def _short(value: object, most: int = 200) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."
