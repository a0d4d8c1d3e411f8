import pytest

from dnabert2_jax.errors import UserError, nearest


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


def test_nothing_accepted_gives_no_hint():
    assert nearest("steps", ()) == ""


def test_a_users_error_is_its_message():
    assert str(UserError("table.csv, line 3: no label")) == "table.csv, line 3: no label"
