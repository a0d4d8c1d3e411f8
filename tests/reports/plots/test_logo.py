import numpy as np
from matplotlib.colors import to_hex

from dnabert2_jax.reports.plots.logo import draw_logo, letter_colors
from dnabert2_jax.reports.plots.style import DARK, LIGHT, new_figure


def drawn(letters: str, heights: list[float], theme=LIGHT):
    """(left, right, bottom, top) of all letters of a color."""
    _, (axis,) = new_figure(theme, 2, heights=(1,))
    draw_logo(axis, letters, np.array(heights, np.float32), theme, first=11)
    found = {}
    for patch in axis.patches:
        box = patch.get_path().get_extents()
        found[to_hex(patch.get_facecolor())] = (box.x0, box.x1, box.y0, box.y1)
    return {base: found.get(color.lower()) for base, color in letter_colors(theme).items()}


def test_letters_are_as_high_as_their_values_and_stand_over_their_base():
    found = drawn("GATN", [0.5, -2.0, 1.5, 9.0])
    assert found["C"] is None
    for base, place, low, high in (("G", 11, 0, 0.5), ("A", 12, -2, 0), ("T", 13, 0, 1.5)):
        left, right, bottom, top = found[base]
        assert place - 0.5 <= left < right <= place + 0.5
        assert right - left > 0.9
        np.testing.assert_allclose((bottom, top), (low, high), atol=1e-6)


def test_what_has_no_value_is_not_drawn():
    found = drawn("ACGT", [float("nan"), 0.0, 1.0, float("nan")], DARK)
    assert [base for base, box in found.items() if box] == ["G"]


def test_colors_differ():
    for theme in (LIGHT, DARK):
        assert len(set(letter_colors(theme).values())) == 4
