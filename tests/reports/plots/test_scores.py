import numpy as np
import pytest

from dnabert2_jax.reports.plots.scores import (
    confusion_matrix,
    measured_against_predicted,
    precision_recall_curves,
    roc_curves,
)
from dnabert2_jax.reports.plots.style import Theme, png
from tests.reports.plots.helpers import THEMES, legend_is_inside, pixels, rgb, scores, texts


@pytest.mark.parametrize("classes", [2, 5, 15, 30])
def test_confusion_matrix_writes_counts_while_they_are_legible(classes: int):
    matrix = (np.arange(classes**2).reshape(classes, classes) + 100).tolist()
    names = [f"class {n}" for n in range(classes)]
    figure = confusion_matrix(matrix, names)
    written = texts(figure)
    assert set(names) <= written
    assert {"true class", "predicted class", "share of the true class"} <= written
    counts = {f"{count:,}" for row in matrix for count in row}
    assert (counts <= written) is (classes <= 20)
    png(figure)


@THEMES
def test_confusion_matrix_is_colored_by_the_share_of_the_true_class(theme: Theme):
    picture = pixels(png(confusion_matrix([[10, 0], [0, 990]], ["rare", "common"], theme)))
    full = (np.abs(picture.astype(int) - rgb(theme.shade)).max(axis=2) <= 8).mean()
    assert full > 0.15  # both cells of the diagonal are of the full color, the rare class like the common one


def test_confusion_matrix_of_a_class_without_rows():
    assert {"0", "3"} <= texts(confusion_matrix([[3, 0], [0, 0]], ["a", "b"]))


@pytest.mark.parametrize("draw", [roc_curves, precision_recall_curves])
def test_two_classes_give_one_curve_of_the_second(draw):
    labels, probabilities = scores(2)
    written = texts(draw(labels, probabilities, ["background", "promoter"]))
    assert any(text.startswith("promoter: 0.") for text in written)
    assert not any("background" in text for text in written)


def test_curves_of_a_few_classes_are_all_named_and_of_many_three():
    for classes, named in ((3, 3), (8, 8), (15, 3)):
        labels, probabilities = scores(classes)
        written = texts(roc_curves(labels, probabilities, [f"class {n}" for n in range(classes)]))
        assert sum(text.startswith("class ") for text in written) == named
    assert "AUROC: best, median, worst of 15" in written


def test_area_is_that_of_the_metrics():
    from sklearn.metrics import roc_auc_score

    labels, probabilities = scores(2)
    assert f"b: {roc_auc_score(labels, probabilities[:, 1]):.3f}" in texts(roc_curves(labels, probabilities, ["a", "b"]))


def test_a_class_without_rows_has_no_curve():
    labels, probabilities = scores(3)
    written = texts(roc_curves(labels % 2, probabilities, ["a", "b", "absent"]))
    assert not any(text.startswith("absent") for text in written)


@pytest.mark.parametrize("draw", [roc_curves, precision_recall_curves])
@pytest.mark.parametrize("classes", [2, 4, 12])
def test_legends_of_long_names_stay_inside_the_picture(draw, classes: int):
    names = [f"Enhancers WIDE IN MOUSE LIVER at embryonic day 14.5, replicate {n}" for n in range(classes)]
    labels, probabilities = np.arange(120) % classes, np.random.default_rng(0).dirichlet(np.ones(classes), 120)
    assert legend_is_inside(draw(labels, probabilities, names))


def test_equal_measurements_are_drawn():
    figure = measured_against_predicted(np.full(5, 2.0), np.full(5, 2.0))
    assert figure.axes[0].get_xlim() == (1.5, 2.5)
