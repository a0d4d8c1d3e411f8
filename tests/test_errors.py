import pytest

from dnabert2_jax.errors import UserError, counted, nearest


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("hiden_size", " (did you mean 'hidden_size'?)"),
        ("learning_rate", " (did you mean 'learning_rate'?)"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_only_a_close_word_is_suggested(word, hint):
    assert nearest(word, iter(["hidden_size", "learning_rate", "steps"])) == hint


def test_half_of_the_letters_are_not_close():
    assert nearest("Gene", ["ID", "Sequence", "Class"]) == ""


def test_nothing_accepted_gives_no_hint():
    assert nearest("steps", ()) == ""


def test_one_thing_is_not_plural():
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_a_users_error_is_its_message():
    assert str(UserError("table.csv, line 3: no label")) == "table.csv, line 3: no label"
