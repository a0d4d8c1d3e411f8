import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.reports.plots.lengths import token_lengths
from tests.reports.plots.helpers import texts


def test_lengths_are_shares_and_the_limit_is_drawn_where_it_cuts():
    lengths = {"train": [[10, 30], [12, 70]], "test": [[11, 1]]}
    figure = token_lengths(lengths, 11)
    assert {"train", "test", "max_tokens 11", "tokens per row"} <= texts(figure)
    heights = [patch.get_data().values for patch in figure.axes[0].patches]
    assert heights[0].tolist() == pytest.approx([0.3, 0.0, 0.7])
    assert heights[-1].tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert "max_tokens 12" not in texts(token_lengths(lengths, 12))


@given(st.lists(st.tuples(st.integers(3, 40_000), st.integers(1, 9)), min_size=1, max_size=20, unique_by=lambda p: p[0]))
def test_every_row_falls_into_the_histogram(pairs: list[tuple[int, int]]):
    figure = token_lengths({"train": pairs}, None)
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(1.0)
    assert len(figure.axes[0].patches[0].get_data().values) <= 41
