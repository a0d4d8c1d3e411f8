"""Read ``tokenizer.json``, the format of Hugging Face ``tokenizers`` and of the released DNABERT-2.

The file holds a vocabulary, a list of merges, and the steps before and after. Everything in it that affects the ids is
compared with what this package does, and any other value is rejected, so a file that loads gives the same ids here as there.
Three things are deliberately ignored: padding and truncation (left over from the last call before the file was saved), and
the decoder.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.special import SPECIAL_TOKENS
from dnabert2_jax.tokenizer.tokenizer_json import POST_PROCESSOR, PRE_TOKENIZER


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _AddedToken(_Strict):
    id: int
    content: str


class _Bpe(_Strict):
    """The ``model`` section; unknown keys could change the ids, so they are errors."""

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
    bpe: _Bpe = Field(alias="model")  # pydantic reserves names that start with "model"
    added_tokens: list[_AddedToken]
    normalizer: None
    pre_tokenizer: dict[str, Any]
    post_processor: dict[str, Any]


def read_tokenizer_json(content: bytes, *, source: str) -> BpeTokenizer:
    """The tokenizer that a ``tokenizer.json`` describes.

    Args:
        content: content of the file.
        source: its name, for error messages.

    Raises:
        UserError: the file is damaged, or describes a tokenizer whose ids this package cannot reproduce exactly.
    """

    def refuse(found: str, accepted: str) -> UserError:
        return UserError(f"{source}: {found}; accepted is {accepted}; the file is damaged, or not that of a DNABERT-2 model")

    try:
        file = _TokenizerJson.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        # The input of these two is the whole file, or most of it.
        value = "" if first["type"] in ("json_invalid", "missing") else f" (found {_short(first['input'])})"
        raise refuse(f"{where}: {first['msg']}{value}", "the layout of the released model") from error
    for key, found, accepted in (
        ("added_tokens", [(token.id, token.content) for token in file.added_tokens], list(enumerate(SPECIAL_TOKENS))),
        ("pre_tokenizer", file.pre_tokenizer, PRE_TOKENIZER),
        ("post_processor", file.post_processor, POST_PROCESSOR),
    ):
        if found != accepted:
            raise refuse(f"{key} is {_short(found)}", _short(accepted))

    vocabulary = file.bpe.vocab
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    for number, piece in enumerate(pieces):
        if vocabulary[piece] != number:
            raise refuse(f"id {vocabulary[piece]} ({piece!r}) is where id {number} should be", "ids without a gap")
    tokenizer = BpeTokenizer.from_pieces(pieces, source=source)
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in file.bpe.merges]
    expected = [pair for pair in tokenizer.merges() if pair is not None]
    for number, (merge, pair) in enumerate(zip(merges, expected, strict=False)):
        if merge != pair:
            raise refuse(
                f"merge {number} is {' '.join(merge)!r}", f"{' '.join(pair)!r}, which follows from the order of the ids"
            )
    if len(merges) != len(expected):
        raise refuse(f"{len(merges)} merges", f"{len(expected)}, as many as the vocabulary has pieces to merge")
    return tokenizer


def _short(value: object, most: int = 200) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."
