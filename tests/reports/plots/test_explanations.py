import numpy as np
import pytest

from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.reports.plots.explanations import BASES_A_ROW, explanation_picture
from dnabert2_jax.reports.plots.style import png
from tests.genome.helpers import random_dna
from tests.reports.plots.helpers import THEMES, pixels, rgb, shows, texts

RNG = np.random.default_rng(0)
LETTERS = random_dna(40, 1) + "NN" + random_dna(48, 2)


def mutated() -> MutationScores:
    values = RNG.normal(size=(90, 4)).astype(np.float32)
    values[40:42] = np.nan
    return MutationScores("chr1:1-90", LETTERS, "log-odds of promoter", values)


def attributed() -> Attributions:
    values = RNG.normal(size=30).astype(np.float32)
    return Attributions("s", LETTERS, "expression", np.full(30, 9, np.int32), np.full(30, 3, np.int32), values, 1.0, 0.0)


def attention(layers: tuple[int, ...]) -> AttentionMaps:
    weights = RNG.dirichlet(np.ones(12), (len(layers), 2, 12)).astype(np.float32)
    tokens = np.arange(12, dtype=np.int32)
    return AttentionMaps("s", "ACGT", layers, (0, 5), tokens, tokens, "token", weights)


@THEMES
def test_mutagenesis_is_a_logo_over_a_map_in_rows_of_one_scale(theme):
    result = mutated()
    figure = explanation_picture(result, theme)
    *rows, bar = figure.axes
    logos, maps = rows[::2], rows[1::2]
    assert len(logos) == len(maps) == 2
    assert {axis.get_ylim() for axis in logos} == {logos[0].get_ylim()}
    known = result.contributions[np.isfinite(result.contributions)]
    assert logos[0].get_ylim()[0] <= known.min() < known.max() <= logos[0].get_ylim()[1]
    assert {axis.images[0].get_clim() for axis in maps} == {maps[0].images[0].get_clim()}
    np.testing.assert_array_equal(maps[0].images[0].get_array().filled(np.nan), result.scores[:BASES_A_ROW].T)
    np.testing.assert_array_equal(maps[1].images[0].get_array(), result.scores[BASES_A_ROW:].T)
    assert [axis.get_xlim() for axis in logos] == [(0.5, 60.5), (60.5, 120.5)]
    assert {"chr1:1-90", "A", "C", "G", "T", "log-odds of promoter, minus the mean of its site"} <= {
        " ".join(text.split()) for text in texts(figure)
    }
    picture = pixels(png(figure))
    assert tuple(picture[0, 0]) == rgb(theme.ground)
    assert shows(picture, theme.muted)  # the unknown bases
    assert bar.get_xlabel()


@THEMES
def test_attributions_are_a_logo(theme):
    figure = explanation_picture(attributed(), theme)
    assert len(figure.axes) == 2
    assert "contributions to expression" in texts(figure)
    assert shows(pixels(png(figure)), theme.colors[0])


def test_attention_is_the_mean_of_its_maps():
    result = attention((0, 1))
    figure = explanation_picture(result)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), result.weights.mean((0, 1)))
    assert {"attention, mean of 2 layers x 2 heads", "token attended to"} <= texts(figure)
    assert "attention, mean of 1 layer x 2 heads" in texts(explanation_picture(attention((11,))))


@pytest.mark.parametrize("bases", [5, 50])
def test_dependencies_name_the_bases_of_a_short_sequence(bases):
    letters = random_dna(bases, 7)
    figure = explanation_picture(DependencyMap("s", letters, RNG.random((bases, bases), np.float32)))
    axis = figure.axes[0]
    assert ([label.get_text() for label in axis.get_xticklabels()] == list(letters)) == (bases == 5)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("base predicted", "base substituted")


def test_nothing_known_is_drawn_too():
    flat = MutationScores("flat", "ACGT", "x", np.zeros((4, 4), np.float32))
    nowhere = DependencyMap("nowhere", "AC", np.full((2, 2), np.nan, np.float32))
    for result in (flat, nowhere):
        assert len(png(explanation_picture(result))) > 1000
