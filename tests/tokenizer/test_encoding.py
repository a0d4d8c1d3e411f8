import os
import shutil
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.tokenizer import merges
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.special import SPECIAL_TOKENS

dna = st.text(alphabet="ACGT", max_size=200)
repeats = st.builds(str.__mul__, st.text(alphabet="ACGT", min_size=1, max_size=3), st.integers(1, 40))


@st.composite
def vocabularies(draw: st.DrawFn) -> BpeTokenizer:
    """Pieces as training makes them, in any order: each is two earlier ones, whether or not any text leads to it."""
    letters = draw(st.sampled_from(["AC", "ACG", "ACGT"]))  # few letters: many pieces that overlap
    pieces = list(letters)
    for _ in range(draw(st.integers(1, 90))):
        piece = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if piece not in pieces and len(piece) <= 16:
            pieces.append(piece)
    return BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *"ACGT", *pieces[len(letters) :]])


def merged(text: str, pieces: tuple[str, ...]) -> list[int]:
    """Byte-pair encoding by its definition."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    parts = list(text)
    while candidates := [(ids[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ids]:
        _, at = min(candidates)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ids[part] for part in parts]


@given(vocabularies(), st.lists(dna | repeats, min_size=1, max_size=4))
@settings(max_examples=300)
def test_the_ids_are_those_of_the_definition(tokenizer: BpeTokenizer, texts: list[str]):
    found = [row.tolist() for row in tokenizer.encode_raw_batch(texts)]
    assert found == [merged(text, tokenizer.pieces) for text in texts]
    assert found == sentencepiece.SentencePieceProcessor(model_proto=tokenizer._content).encode(texts)


def test_pieces_that_need_steps_back():
    # Read from the left, AC + CCCC seems right until the G at the end of the fifth C.
    tokenizer = BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *"ACGT", "CG", "CC", "AC", "CCCC", "ACCCC", "CCCCC"])
    for count in range(1, 60):
        for text in ("A" + "C" * count + "G", "C" * count + "G", "C" * count):
            assert tokenizer.encode_raw(text) == merged(text, tokenizer.pieces)


def test_a_long_repeat_takes_as_long_as_other_text():
    """Steps back never try a position twice, so that a million letters are encoded within the time of this test."""
    tokenizer = BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *"ACGT", "CG", "CC", "CCC", "CCCC"])
    ids = tokenizer.encode_raw("C" * 1_000_000 + "G")
    assert tokenizer.decode(ids) == "C" * 1_000_000 + "G"
    # The end is that of a shorter repeat with the same remainder of 4, the longest piece.
    assert ids[-100:] == merged("C" * 1000 + "G", tokenizer.pieces)[-100:]


@given(
    st.permutations([*map("".join, product("AC", repeat=2)), *map("".join, product("AC", repeat=3)), "CACA", "ACAAC"]),
    st.data(),
)
def test_pieces_that_come_before_their_parts(merges: list[str], data: st.DataObject):
    # No training leads to these, but a file may have them.
    tokenizer = BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *"ACGT", *merges])
    text = data.draw(st.text("AC", max_size=80))
    assert tokenizer.encode_raw(text) == merged(text, tokenizer.pieces)


def test_a_vocabulary_in_no_order_is_refused():
    late = ["".join(piece) for length in (5, 4, 3, 2) for piece in product("ACGT", repeat=length)]
    tokenizer = BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *"ACGT", *late])
    with pytest.raises(
        UserError, match=r"of the tokenizer's 1,364 pieces have lower ids than pieces they are merged from, such as"
    ):
        tokenizer.encode_raw("ACGT")


AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
SETPRIV = shutil.which("setpriv")


@pytest.mark.skipif(AS_ROOT and SETPRIV is None, reason="root obeys permissions only under setpriv, which is not here")
def test_encodes_where_no_compiled_code_can_be_kept(tmp_path: Path):
    """As in a container with a read-only image and no home directory."""
    package = tmp_path / "dnabert2_jax"
    shutil.copytree(Path(merges.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__", "models"))
    for directory in (tmp_path, *(path for path in package.rglob("*") if path.is_dir()), package):
        directory.chmod(0o555)
    program = f"""
import os
from dnabert2_jax.tokenizer import encoding
assert encoding.__file__.startswith({str(tmp_path)!r})
assert not os.access(os.path.dirname(encoding.__file__), os.W_OK)
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.special import SPECIAL_TOKENS
print(BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *"ACGT", "AC"]).encode_raw("GACT"))
"""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    obeying = [SETPRIV, "--bounding-set=-dac_override"] if AS_ROOT else []
    command = [*obeying, sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, "[7, 9, 8]\n"), done.stderr
