import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import AMBIGUITY_CODES, LetterCounts, clean_letters

ACCEPTED = "ACGT" + AMBIGUITY_CODES


def clean(sequence: str | bytes) -> tuple[str, LetterCounts]:
    letters, counts = clean_letters(sequence, source="genome.fa", record="chrI")
    assert letters.dtype == np.uint8
    return letters.tobytes().decode("ascii"), counts


def test_plain_sequence_passes_unchanged():
    assert clean("GATTACA") == ("GATTACA", LetterCounts(bases=7))


def test_empty_sequence_has_no_letters():
    assert clean("") == ("", LetterCounts())
    assert clean(b"") == ("", LetterCounts())


def test_lower_case_is_upper_cased_and_counted():
    text, counts = clean("gatTACAn")
    assert text == "GATTACAN"
    assert counts == LetterCounts(bases=8, lower_case=4, ambiguous={"N": 1})


@pytest.mark.parametrize("code", AMBIGUITY_CODES)
def test_every_iupac_code_stays_and_is_counted(code: str):
    text, counts = clean(f"AC{code}{code.lower()}GT")
    assert text == f"AC{code}{code}GT"
    assert counts == LetterCounts(bases=6, lower_case=1, ambiguous={code: 2})


@pytest.mark.parametrize("letter", sorted(set(map(chr, range(256))) - set(ACCEPTED + ACCEPTED.lower())))
def test_every_other_byte_is_an_error_with_its_position(letter: str):
    for sequence in (f"ACGTN{letter}A", f"ACGTN{letter}A".encode("latin-1")):
        with pytest.raises(UserError) as caught:
            clean(sequence)
        assert str(caught.value).startswith(f"genome.fa, chrI, position 6: {letter!r} is not a DNA letter")


@pytest.mark.parametrize("letter", ["Ａ", "А", "🧬", "Ā", "\ud800"])  # noqa: RUF001
def test_letters_outside_latin1_are_errors_that_show_the_letter(letter: str):
    with pytest.raises(UserError) as caught:
        clean(f"AC{letter}")
    assert f"position 3: {letter!r} is not" in str(caught.value)


@pytest.mark.parametrize(
    ("letter", "remedy"),
    [
        ("U", "write T for U"),
        ("u", "write T for U"),
        ("-", "remove the gaps"),
        (".", "remove the gaps"),
        ("*", "looks like protein"),
        ("l", "looks like protein"),
        ("X", "write N"),
        (" ", "white space"),
        ("\n", "white space"),
        ("[", "special tokens are not sequence"),
    ],
)
def test_common_mistakes_come_with_a_remedy(letter: str, remedy: str):
    with pytest.raises(UserError, match=remedy):
        clean("ACGT" + letter)


def test_counts_add_up():
    total = LetterCounts()
    for sequence in ("acgN", "RRnA"):
        total.add(clean(sequence)[1])
    assert total == LetterCounts(bases=8, lower_case=4, ambiguous={"N": 2, "R": 2})


@given(st.text(alphabet=ACCEPTED + ACCEPTED.lower()))
def test_the_result_is_the_upper_case_text_and_str_equals_bytes(sequence: str):
    text, counts = clean(sequence)
    assert text == sequence.upper()
    assert counts.lower_case == sum(letter.islower() for letter in sequence)
    assert counts.ambiguous == {code: text.count(code) for code in AMBIGUITY_CODES if code in text}
    assert clean(sequence.encode()) == (text, counts)


@given(st.text(alphabet=string.printable))
def test_text_passes_or_names_its_first_forbidden_letter(sequence: str):
    forbidden = [position for position, letter in enumerate(sequence, 1) if letter.upper() not in ACCEPTED]
    if forbidden:
        with pytest.raises(UserError, match=f"position {forbidden[0]}: "):
            clean(sequence)
    else:
        assert clean(sequence)[0] == sequence.upper()
