"""The page of a region: what stands out, and where that is in the genome."""

import numpy as np
import pytest

from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.reports.explanation import Coordinates, explanation_page, save_pictures, strongest, strongest_stretches
from tests.genome.helpers import random_dna
from tests.reports.helpers import Page

RECORD = {
    **{"model": "runs/model", "model_sha256": "0123456789abcdef", "dnabert2_jax": "0"},
    "settings": {"target": "promoter", "bed": None},
}
LETTERS = random_dna(30, 1)


def planted(letters: str = LETTERS) -> MutationScores:
    """Contributions of 1 at bases 11 to 18, counted from 1, and none elsewhere."""
    values = np.zeros((len(letters), 4), np.float32)
    for place in range(10, 18):
        values[place] = -1 / 3
        values[place, "ACGT".index(letters[place])] = 1
    values *= np.float32(0.75)
    return MutationScores("s", letters, "log-odds of promoter", values)


def rows_of(result, places=()) -> list[tuple[str, ...]]:
    return list(strongest(result, Coordinates(dict(places), 0)).rows)


def test_the_strongest_stretches_do_not_overlap():
    contributions = planted().contributions
    contributions[25] = -3
    (first, total), (second, negative), *_ = strongest_stretches(contributions)
    assert (first, total) == (10, pytest.approx(6.0))
    assert negative == pytest.approx(-3.0)
    assert second <= 25 < second + 8
    assert abs(second - first) >= 8
    assert strongest_stretches(contributions[:7]) == []
    contributions[10] = np.nan
    assert strongest_stretches(contributions)[0] == (10, pytest.approx(5.25))


@pytest.mark.parametrize(
    ("strand", "expected"), [("+", "chr2:1,011-1,018"), (".", "chr2:1,011-1,018"), ("-", "chr2:1,013-1,020")]
)
def test_a_stretch_has_its_place_in_the_genome(strand, expected):
    places = {"contigs": ["chr2"], "starts": np.array([1000]), "ends": np.array([1030]), "strands": [strand]}
    assert rows_of(planted(), places)[0] == (expected, LETTERS[10:18], "+6.000")


def test_a_stretch_of_a_sequence_is_counted_from_1():
    assert rows_of(planted())[0] == ("11-18", LETTERS[10:18], "+6.000")


def test_pairs_are_named_by_their_letters_and_places():
    weights = np.full((1, 1, 4, 4), 0.1, np.float32)
    weights[..., 1, 2] = 0.7
    weights[..., 3, 0] = 0.6
    ids, bases = np.array([1, 7, 8, 2], np.int32), np.array([0, 3, 2, 0], np.int32)
    rows = rows_of(AttentionMaps("s", "ACGTA", (0,), (0,), ids, bases, "token", weights))
    assert rows[:2] == [("ACG (1-3)", "TA (4-5)", "0.700"), ("[SEP]", "[CLS]", "0.600")]
    values = np.zeros((5, 5), np.float32)
    values[4, 1] = 2.5
    assert rows_of(DependencyMap("s", "ACGTA", values))[0] == ("A (5)", "C (2)", "2.500")


def test_the_page_says_how_well_gradients_add_up_and_how_it_was_made():
    values = np.array([1.0, 2.0], np.float32)
    result = Attributions("s", "ACGTA", "expression", np.array([7, 8]), np.array([3, 2]), values, 4.0, 0.5)
    lines = Page(explanation_page("ig", [result], RECORD, {}).html()).text.split("\n")
    for expected in ("expression", "4.000", "of the masked sequence", "0.500", "14.29%", "promoter", "0123456789ab"):
        assert expected in lines
    assert "bed" not in lines


def test_pictures_are_named_by_sequence_and_only_the_first_are_drawn(tmp_path):
    results = [DependencyMap(name, "ACGT", np.eye(4, dtype=np.float32)) for name in ("chr1:1-4 (-)", "b", "c")]
    files = save_pictures(tmp_path / "new", results, "png", most=1)
    assert [file.name for file in files] == ["001_chr1_1-4__-_.png", "001_chr1_1-4__-_.dark.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    page = explanation_page("dependency", results, RECORD, {}, most=1)
    assert "3 sequences were explained; the first 1 are shown." in page.html()
    assert [section.title for section in page.sections] == ["How to read it", "chr1:1-4 (-)", "How it was made"]
