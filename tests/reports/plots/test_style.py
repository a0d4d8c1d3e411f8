import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.reports.plots.curves import training_curves
from dnabert2_jax.reports.plots.style import DARK, LIGHT, Theme, display_name, png, readable_on, render
from tests.reports.plots.helpers import PRETRAINING, pixels, rgb


def test_png_repeats_and_has_the_ground_of_its_theme():
    for theme in (LIGHT, DARK):
        first, second = (png(training_curves(PRETRAINING, theme)) for _ in range(2))
        assert first == second
        picture = pixels(first)
        assert tuple(picture[0, 0]) == tuple(picture[-1, -1]) == rgb(theme.ground)
        assert picture.shape[1] == 675  # 4.5 inches at 150 dots


@given(st.sampled_from([LIGHT, DARK]), st.floats(0, 1))
def test_text_on_a_cell_keeps_a_contrast_of_three(theme: Theme, share: float):
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    behind = LinearSegmentedColormap.from_list("share", [theme.ground, theme.shade])(share)

    def luminance(color) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    low, high = sorted([luminance(behind), luminance(readable_on(behind, theme))])
    assert (high + 0.05) / (low + 0.05) > 3


def test_long_names_keep_both_ends_and_every_line_fits():
    assert display_name("short one") == "short one"
    broken = display_name("H3K4me3_active_promoter_of_human", 16)
    assert broken == "H3K4me3_active_\npromoter_of_\nhuman"
    long = display_name("a" * 100 + "_end", 20)
    assert all(len(line) <= 20 for line in long.split("\n"))
    assert long.startswith("aaa")
    assert long.replace("\n", "").endswith("_end")
    assert "…" in long
    assert display_name("beginning of a long name", 13, most_lines=1) == "beginn…g name"


@pytest.mark.parametrize(("picture_format", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_in_every_format(picture_format, head):
    assert render(training_curves(PRETRAINING), picture_format).startswith(head)
