"""``dnabert2 explain``: what is printed, written and refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax.artifacts.model import save_model
from dnabert2_jax.cli.explain import parse_numbers
from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.errors import UserError
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import tiny_model

GENOME = {"chr1": random_dna(120, 3) + "N" * 40 + random_dna(40, 4)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A masked language model, a classifier on its encoder, a genome, and intervals on both strands."""
    place = tmp_path_factory.mktemp("explain")
    saved = tiny_model(place / "mlm", seed=3, initializer_range=0.3)
    rng = np.random.default_rng(0)
    dense, linear = (
        {"kernel": (0.2 * rng.normal(size=(32, n))).astype(np.float32), "bias": np.zeros(n, np.float32)} for n in (32, 2)
    )
    params = {"encoder": saved.params["encoder"], "pooler": {"dense": dense}, "classifier": linear}
    save_model(place / "classifier", replace(saved, kind="classifier", params=params, labels=("promoter", "other")))
    write_fasta(place / "g.fa", GENOME)
    (place / "b.bed").write_text("chr1\t10\t32\tone\t0\t+\nchr1\t60\t82\ttwo\t0\t-\n")
    return place


@pytest.fixture
def given(place) -> dict[str, list]:
    """Options that several calls share."""
    return {
        "classifier": ["--model", place / "classifier", "--fasta", place / "g.fa"],
        "mlm": ["--model", place / "mlm", "--fasta", place / "g.fa"],
    }


def test_a_file_a_page_and_the_input_of_modisco(dnabert2, place, given, tmp_path):
    code, out, errors = dnabert2(
        *("explain", "ism", *given["classifier"], "--bed", place / "b.bed", "--target", "promoter", "--batch-tokens", 1),
        *("--out", tmp_path / "x.npz", "--page", tmp_path / "x.html", "--modisco", tmp_path / "modisco"),
    )
    assert code == 0, errors
    assert out.splitlines() == [f"saved {tmp_path / name}" for name in ("x.npz", "x.html", "modisco")]
    assert f"{place / 'b.bed'}: 2 sequences, 44 bases" in errors
    assert "explaining  44/44" in errors
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    letters = [GENOME["chr1"][10:32], reverse_complement(GENOME["chr1"][60:82])]
    assert arrays["sequences"].tolist() == letters
    assert arrays["names"].tolist() == ["chr1:11-32", "chr1:61-82 (-)"]
    assert (arrays["starts"].tolist(), arrays["ends"].tolist()) == ([10, 60], [32, 82])
    assert (arrays["strands"].tolist(), arrays["intervals"].tolist()) == (["+", "-"], ["one", "two"])
    assert arrays["scores"].shape == (44, 4)
    record = json.loads(str(arrays["record"]))
    assert record["command"] == "explain ism"
    assert record["settings"]["target"] == "promoter"
    assert record["settings"]["precision"] == "float32"
    page = (tmp_path / "x.html").read_text()
    assert "chr1:61-82 (-)" in page
    assert page.count("<picture>") == 2
    assert {path.name for path in (tmp_path / "modisco").iterdir()} == {"ohe.npz", "shap.npz"}


def test_attention_and_dependency(dnabert2, given, tmp_path):
    code, _, errors = dnabert2(
        *("explain", "attention", *given["classifier"], "--region", "chr1:1-20", "--layers", "0-1", "--heads", "2"),
        *("--resolution", "base", "--out", tmp_path / "a.npz", "--plot", tmp_path / "plots", "--format", "svg"),
    )
    assert code == 0, errors
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["001_chr1_1-20.dark.svg", "001_chr1_1-20.svg"]
    assert np.load(tmp_path / "a.npz")["attention_0"].shape == (2, 1, 20, 20)
    code, _, errors = dnabert2(
        *("explain", "dependency", *given["mlm"], "--region", "chr1:1-12", "--batch-tokens", 1),
        *("--out", tmp_path / "d.npz"),
    )
    assert code == 0, errors
    assert np.load(tmp_path / "d.npz")["dependency_0"].shape == (12, 12)


def test_gradients_of_a_file_of_sequences(dnabert2, given, tmp_path):
    fasta = write_fasta(tmp_path / "s.fa", {"one": GENOME["chr1"][:20]})
    for method, suffix in (("ig", "h5"), ("saliency", "npz")):
        code, out, errors = dnabert2(
            *("explain", method, *given["classifier"][:2], "--data", fasta, "--target", "other", "--batch-tokens", 16),
            *("--out", tmp_path / f"{method}.{suffix}"),
        )
        assert code == 0, errors
        assert "warning" not in errors
        assert out == f"saved {tmp_path / method}.{suffix}\n"


@pytest.mark.parametrize(
    ("method", "model", "options", "words"),
    [
        (
            "ig",
            "classifier",
            ["--region", "chr1:1-20", "--target", "promotor"],
            ("promoter, other", "did you mean 'promoter'?"),
        ),
        ("ism", "classifier", ["--region", "chr1:1-20"], ("name it with --target",)),
        ("ism", "classifier", ["--region", "chr1:131-150", "--target", "other"], ("20 bases, none of them A, C, G or T",)),
        ("attention", "mlm", ["--region", "chr1:1-20", "--heads", "0,9"], ("--heads 9: this model has 4 heads",)),
        ("attention", "mlm", ["--region", "chr1:1-20", "--layers", "last"], ("--layers last: not a list of numbers",)),
        ("dependency", "classifier", ["--region", "chr1:1-20"], ("dependency needs a masked_lm",)),
        ("ism", "mlm", [], ("add --bed FILE or --region CONTIG:START-END",)),
        ("ism", "mlm", ["--data", "x.fa"], ("give either --data FILE, or --fasta GENOME",)),
        ("ism", "mlm", ["--region", "chr1:1-20", "--region", "chr1:1-30", "--modisco", "m"], ("of one length",)),
    ],
)
def test_one_line_for_each_mistake(refused, given, tmp_path, method, model, options, words):
    refused("explain", method, *given[model], *options, "--out", tmp_path / "x.npz", words=words)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept_and_unknown_formats_are_refused_before_the_work(refused, given, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.png").write_bytes(b"")
    call = ("explain", "ism", *given["mlm"], "--region", "chr1:1-20")
    refused(*call, "--out", tmp_path / "x.npz", "--plot", tmp_path / "plots", words=("plots exists",))
    refused(*call, "--out", tmp_path / "x.csv", words=("accepted are .npz, .h5",))
    refused(*call, "--out", tmp_path / "x.npz", "--page", tmp_path / "x.pdf", words=("accepted are .html",))


def test_numbers_as_users_list_them():
    assert parse_numbers("--heads", None) == ()
    assert parse_numbers("--heads", "3") == (3,)
    assert parse_numbers("--heads", "0, 4-6") == (0, 4, 5, 6)
    for text in ("", "a", "1-", "5-3", "-1", "1,,2"):
        with pytest.raises(UserError, match="--heads"):
            parse_numbers("--heads", text)
