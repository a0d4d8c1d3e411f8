import io
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnabert2_jax.errors import UserError
from dnabert2_jax.reports import plots
from dnabert2_jax.reports.plots import DARK, LIGHT, Theme
from dnabert2_jax.reports.plots.style import display_name, readable_on

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])

PRETRAINING = [
    {"step": 5, "loss": 4.0, "masked_accuracy": 0.02, "gradient_norm": 1.0, "learning_rate": 1e-3},
    {"step": 10, "loss": 3.5, "masked_accuracy": 0.05, "gradient_norm": 0.8, "learning_rate": 5e-4},
    {"step": 10, "validation_loss": 3.6, "validation_masked_accuracy": 0.04},
]
FINETUNING = [
    {"step": 7, "loss": 0.7, "accuracy": 0.5, "gradient_norm": 2.0, "learning_rate": 1e-4},
    {"step": 7, "dev_mcc": 0.2, "dev_macro_f1": 0.5, "dev_accuracy": 0.6},
]


def pixels(data: bytes) -> np.ndarray:
    """The picture as 8-bit RGB, [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def shows(picture: np.ndarray, colour: str) -> bool:
    """Whether some pixel is about of this colour (lines are antialiased)."""
    return bool((np.abs(picture.astype(int) - rgb(colour)).max(axis=2) <= 8).any())


def scores(classes: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(rows) % classes
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.0
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def texts(figure) -> set[str]:
    """Everything written on a figure."""
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}


def test_png_repeats_and_has_the_ground_of_its_theme():
    for theme in (LIGHT, DARK):
        first, second = (plots.png(plots.training_curves(PRETRAINING, theme)) for _ in range(2))
        assert first == second
        picture = pixels(first)
        assert tuple(picture[0, 0]) == tuple(picture[-1, -1]) == rgb(theme.ground)
        assert picture.shape[1] == 675  # 4.5 inches at 150 dots


@THEMES
def test_curves_of_pretraining_show_both_splits(theme: Theme):
    figure = plots.training_curves(PRETRAINING, theme)
    assert {"training", "held out", "optimizer step", "loss\n(nats per masked token)"} <= texts(figure)
    picture = pixels(plots.png(figure))
    assert shows(picture, theme.colours[0])
    assert shows(picture, theme.colours[1])


def test_curves_of_finetuning_mark_the_step_that_was_kept():
    figure = plots.training_curves(FINETUNING, kept_step=7)
    assert {"dev MCC", "dev macro F1", "dev accuracy", "kept", "loss\n(nats per row)"} <= texts(figure)
    assert "kept" not in texts(plots.training_curves(FINETUNING))


def test_curves_plot_the_values_of_the_log():
    loss = plots.training_curves(PRETRAINING).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert drawn == {"training": [[5, 4.0], [10, 3.5]], "held out": [[10, 3.6]]}


def test_curves_need_a_measurement():
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        plots.training_curves([{"step": 1}])


@pytest.mark.parametrize("classes", [2, 5, 15, 30])
def test_confusion_matrix_writes_counts_while_they_are_legible(classes: int):
    matrix = (np.arange(classes**2).reshape(classes, classes) + 100).tolist()
    names = [f"class {n}" for n in range(classes)]
    figure = plots.confusion_matrix(matrix, names)
    written = texts(figure)
    assert set(names) <= written
    assert {"true class", "predicted class", "share of the true class"} <= written
    counts = {f"{count:,}" for row in matrix for count in row}
    assert (counts <= written) is (classes <= 20)
    plots.png(figure)


@THEMES
def test_confusion_matrix_is_coloured_by_the_share_of_the_true_class(theme: Theme):
    picture = pixels(plots.png(plots.confusion_matrix([[10, 0], [0, 990]], ["rare", "common"], theme)))
    full = (np.abs(picture.astype(int) - rgb(theme.shade)).max(axis=2) <= 8).mean()
    assert full > 0.15  # both cells of the diagonal are of the full colour, the rare class like the common one


def test_confusion_matrix_of_a_class_without_rows():
    assert {"0", "3"} <= texts(plots.confusion_matrix([[3, 0], [0, 0]], ["a", "b"]))


@given(st.sampled_from([LIGHT, DARK]), st.floats(0, 1))
def test_text_on_a_cell_keeps_a_contrast_of_three(theme: Theme, share: float):
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    behind = LinearSegmentedColormap.from_list("share", [theme.ground, theme.shade])(share)

    def luminance(colour) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    low, high = sorted([luminance(behind), luminance(readable_on(behind, theme))])
    assert (high + 0.05) / (low + 0.05) > 3


@pytest.mark.parametrize("draw", [plots.roc_curves, plots.precision_recall_curves])
def test_two_classes_give_one_curve_of_the_second(draw):
    labels, probabilities = scores(2)
    written = texts(draw(labels, probabilities, ["background", "promoter"]))
    assert any(text.startswith("promoter: 0.") for text in written)
    assert not any("background" in text for text in written)


def test_curves_of_a_few_classes_are_all_named_and_of_many_three():
    for classes, named in ((3, 3), (8, 8), (15, 3)):
        labels, probabilities = scores(classes)
        written = texts(plots.roc_curves(labels, probabilities, [f"class {n}" for n in range(classes)]))
        assert sum(text.startswith("class ") for text in written) == named
    assert "AUROC: best, median, worst of 15" in written


def test_area_is_that_of_the_metrics():
    from sklearn.metrics import roc_auc_score

    labels, probabilities = scores(2)
    assert f"b: {roc_auc_score(labels, probabilities[:, 1]):.3f}" in texts(
        plots.roc_curves(labels, probabilities, ["a", "b"])
    )


def test_a_class_without_rows_has_no_curve():
    labels, probabilities = scores(3)
    written = texts(plots.roc_curves(labels % 2, probabilities, ["a", "b", "absent"]))
    assert not any(text.startswith("absent") for text in written)


def test_lengths_are_shares_and_the_limit_is_drawn_where_it_cuts():
    lengths = {"train": [[10, 30], [12, 70]], "test": [[11, 1]]}
    figure = plots.token_lengths(lengths, 11)
    assert {"train", "test", "max_tokens 11", "tokens per row"} <= texts(figure)
    heights = [patch.get_data().values for patch in figure.axes[0].patches]
    assert heights[0].tolist() == pytest.approx([0.3, 0.0, 0.7])
    assert heights[-1].tolist() == pytest.approx([0.0, 1.0, 0.0])
    assert "max_tokens 12" not in texts(plots.token_lengths(lengths, 12))


@given(st.lists(st.tuples(st.integers(3, 40_000), st.integers(1, 9)), min_size=1, max_size=20, unique_by=lambda p: p[0]))
def test_every_row_falls_into_the_histogram(pairs: list[tuple[int, int]]):
    figure = plots.token_lengths({"train": pairs}, None)
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(1.0)
    assert len(figure.axes[0].patches[0].get_data().values) <= 41


def test_pca_map_finds_the_plane_that_points_lie_in_and_names_the_method():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) * (5.0, 2.0)
    basis, _ = np.linalg.qr(rng.normal(size=(10, 2)))
    figure = plots.embedding_map(plane @ basis.T + 3.0, ["b", "a", "a"] * 20, method="pca")
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
    figure = plots.embedding_map(rng.normal(size=(150, 8)), names * 10, method="pca")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_map_of_equal_points_is_drawn():
    plots.png(plots.embedding_map(np.ones((4, 3)), list("aabb"), method="pca"))


def test_map_needs_three_rows():
    with pytest.raises(UserError, match="three"):
        plots.embedding_map(np.eye(2), ["a", "b"])


@pytest.mark.skipif(find_spec("umap") is not None, reason="umap-learn is installed here, so its absence cannot be tried")
def test_umap_says_how_to_install_it_where_it_is_missing():
    with pytest.raises(UserError, match="pip install umap-learn"):
        plots.embedding_map(np.eye(5), list("aabbb"), method="umap")


@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn, which is optional, is not installed")
@pytest.mark.filterwarnings("default")
def test_umap_map_names_its_method():
    rng = np.random.default_rng(0)
    assert "UMAP, 40 rows" in texts(plots.embedding_map(rng.normal(size=(40, 8)), ["a", "b"] * 20, method="umap"))


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
    assert plots.render(plots.training_curves(PRETRAINING), picture_format).startswith(head)
