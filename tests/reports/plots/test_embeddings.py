from importlib.util import find_spec

import numpy as np
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports.plots.embeddings import embedding_map
from dnabert2_jax.reports.plots.style import png
from tests.reports.plots.helpers import texts


def test_pca_map_finds_the_plane_that_points_lie_in_and_names_the_method():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) * (5.0, 2.0)
    basis, _ = np.linalg.qr(rng.normal(size=(10, 2)))
    figure = embedding_map(plane @ basis.T + 3.0, ["b", "a", "a"] * 20, method="pca")
    assert {"PCA, 60 rows", "a", "b"} <= texts(figure)
    drawn = np.concatenate([points.get_offsets() for points in figure.axes[0].collections])
    original = plane - plane.mean(axis=0)
    assert np.sort(np.linalg.norm(drawn, axis=1)) == pytest.approx(np.sort(np.linalg.norm(original, axis=1)))
    shares = [
        float(axis.get_text().split("(")[1].split("%")[0])
        for axis in (figure.axes[0].xaxis.label, figure.axes[0].yaxis.label)
    ]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_maps_of_many_classes_order_them_as_numbers():
    rng = np.random.default_rng(0)
    names = [f"class {n}" for n in range(15)]
    figure = embedding_map(rng.normal(size=(150, 8)), names * 10, method="pca")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_map_of_equal_points_is_drawn():
    png(embedding_map(np.ones((4, 3)), list("aabb"), method="pca"))


def test_map_needs_three_rows():
    with pytest.raises(UserError, match="three"):
        embedding_map(np.eye(2), ["a", "b"])


@pytest.mark.skipif(find_spec("umap") is not None, reason="umap-learn is installed here, so its absence cannot be tried")
def test_umap_says_how_to_install_it_where_it_is_missing():
    with pytest.raises(UserError, match="pip install umap-learn"):
        embedding_map(np.eye(5), list("aabbb"), method="umap")


@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn, which is optional, is not installed")
@pytest.mark.filterwarnings("default")
def test_umap_map_names_its_method():
    rng = np.random.default_rng(0)
    assert "UMAP, 40 rows" in texts(embedding_map(rng.normal(size=(40, 8)), ["a", "b"] * 20, method="umap"))
