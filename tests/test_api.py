import subprocess
import sys

import numpy as np
import pytest

import dnabert2_jax
from dnabert2_jax import DNABERT2, UserError
from dnabert2_jax.artifacts.model import SavedModel, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.modeling.models import sequence_classifier
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import tiny_config, tiny_model, tiny_tokenizer, write_table

SEQUENCES = ["ACGTTGACA", "gggatttaccn", "A"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> DNABERT2:
    path = tmp_path_factory.mktemp("api") / "model"
    tiny_model(path)
    return DNABERT2.load(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> DNABERT2:
    path = tmp_path_factory.mktemp("api") / "classifier"
    provenance = make_provenance(["test"], run_config={}, parents={}, metrics={})
    params = sequence_classifier(tiny_config(), 2).init(0)
    save_model(
        path,
        SavedModel(
            kind="classifier",
            config=tiny_config(),
            params=params,
            tokenizer=tiny_tokenizer(),
            labels=("no", "yes"),
            provenance=provenance,
        ),
    )
    return DNABERT2.load(str(path), precision="float32", attention="reference")


def test_embed(model):
    vectors = model.embed(SEQUENCES)
    assert (vectors.shape, vectors.dtype) == ((3, 32), np.float32)
    assert not np.allclose(vectors, model.embed(SEQUENCES, pooling="cls"), atol=1e-3)
    bases = model.embed(SEQUENCES, pooling="base")
    assert [array.shape for array in bases] == [(9, 32), (11, 32), (1, 32)]
    tokens = model.embed(SEQUENCES, "token", batch_tokens=8)
    np.testing.assert_allclose(np.stack([array.mean(0) for array in tokens]), vectors, atol=1e-5)


def test_predict(classifier):
    predictions = classifier.predict(SEQUENCES)
    assert predictions.probabilities.shape == (3, 2)
    assert predictions.labels == [classifier.labels[n] for n in predictions.probabilities.argmax(1)]
    assert classifier.predict(SEQUENCES, SEQUENCES, long="cut", max_tokens=8).cut_bases[1] > 0
    assert (classifier.predict(["ACGTTGACA" * 9], max_tokens=16, overlap=0.0).windows > 1).all()


def test_fill_mask(model):
    (masked,) = model.fill_mask("ACGT[MASK]GACA", top_k=3)
    assert len(masked.candidates) == 3
    assert model.fill_mask("ACGTTGACA", [(0, 1)])[0].start == 0


def test_what_a_model_tells_about_itself(model, classifier):
    assert (model.kind, model.labels, model.config.hidden_size) == ("masked_lm", (), 32)
    assert (classifier.kind, classifier.labels) == ("classifier", ("no", "yes"))
    assert model.tokenizer.sha256 == tiny_tokenizer().sha256
    assert repr(model).endswith("kind='masked_lm', hidden_size=32)")


def test_mistakes_are_user_errors(model, tmp_path):
    with pytest.raises(UserError, match="prediction needs a classifier"):
        model.predict(SEQUENCES)
    with pytest.raises(UserError, match="sequences is a single string"):
        model.embed("ACGT")
    with pytest.raises(UserError, match="does not exist"):
        DNABERT2.load(tmp_path / "none")
    with pytest.raises(UserError, match="attention backend 'flash' is unknown"):
        DNABERT2.load(tmp_path, attention="flash")


def test_every_public_name_is_there():
    for name in dnabert2_jax.__all__:
        assert getattr(dnabert2_jax, name) is not None
    assert set(dnabert2_jax.__all__) <= set(dir(dnabert2_jax))
    with pytest.raises(AttributeError, match="has no attribute 'DNABERT3'"):
        dnabert2_jax.DNABERT3  # noqa: B018


def test_importing_the_package_alone_is_light():
    heavy = "{'jax', 'flax', 'orbax', 'sklearn', 'sentencepiece', 'pydantic', 'numpy'} & set(sys.modules)"
    code = f"import sys, dnabert2_jax; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predictions_are_a_sequence_of_rows(classifier):
    predictions = classifier.predict({"first": SEQUENCES[0], "second": SEQUENCES[1], "third": SEQUENCES[2]})
    rows = list(predictions)
    assert (len(predictions), len(rows), rows[1]["name"]) == (3, 3, "second")
    assert predictions[-1] == rows[2]
    assert predictions[-1]["note"] == "too_short"
    assert predictions[1:].names == ["second", "third"]
    assert list(predictions[0]) == ["name", "label", "p_no", "p_yes", "windows", "cut_bases", "note"]
    assert repr(predictions) == "Predictions(3 sequences, classes no, yes)"
    assert "<th>p_yes</th>" in predictions._repr_html_()
    with pytest.raises(IndexError):
        predictions[3]


def test_predictions_as_a_data_frame(classifier, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = classifier.predict(pandas.Series(SEQUENCES, index=["a", "b", "c"])).to_pandas()
    assert list(frame.index) == ["a", "b", "c"]
    assert set(frame["label"]) <= {"no", "yes"}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        classifier.predict(SEQUENCES).to_pandas()


def test_evaluate(classifier, tmp_path):
    table = write_table(tmp_path / "t.csv", [("ACGTTGACAA", "0"), ("GGATTACAGG", "1")], "seq,kind")
    scores = classifier.evaluate(str(table), label_column="kind", label_map={"0": "no", "1": "yes"}, progress=True)
    assert scores["n"] == 2


def test_save(classifier, tmp_path):
    again = DNABERT2.load(classifier.save(str(tmp_path / "copy")), attention="reference")
    np.testing.assert_array_equal(again.predict(SEQUENCES).outputs, classifier.predict(SEQUENCES).outputs)
    with pytest.raises(UserError, match="copy exists; choose another name, or replace it with --force"):
        classifier.save(tmp_path / "copy")
    classifier.save(tmp_path / "copy", force=True)


def test_sequences_are_predicted_and_embedded_some_at_a_time(model, classifier, tmp_path):
    reads = {f"r{n}": random_dna(60, n) for n in range(30)}
    drawn = []

    def generator():
        for text in reads.values():
            drawn.append(text)
            yield text

    parts = classifier.iter_predict(generator(), batch_tokens=8)
    first = next(parts)
    assert len(drawn) == len(first) == 6  # 8 batches of 8 tokens, of about 5 bases each
    together = [first, *parts]
    assert [name for part in together for name in part.names] == [str(number) for number in range(1, 31)]
    expected = classifier.predict(reads).probabilities
    np.testing.assert_allclose(np.concatenate([part.probabilities for part in together]), expected, atol=1e-5)

    path = write_fasta(tmp_path / "reads.fa", reads)
    for given in (path, reads, str(path)):
        parts = list(model.iter_embed(given, "base", batch_tokens=8))
        assert len(parts) > 1
        assert [name for part in parts for name in part.names] == list(reads)
        assert [len(vectors) for part in parts for vectors in part.split()] == [60] * 30
    assert repr(parts[0]) == "Embeddings(6 sequences, 360 vectors of 32, base)"
    with pytest.raises(UserError, match=r"sequences\[1\], position 3: 'X' is not"):
        list(model.iter_embed(["ACGT", "ACXT"]))


def test_embeddings_to_pandas(model):
    [embeddings] = model.iter_embed({"a": "ACGTTGACA", "b": "GG"})
    frame = embeddings.to_pandas()
    assert (list(frame.index), list(frame.columns)) == (["a", "b"], [f"e{n}" for n in range(32)])
    np.testing.assert_array_equal(frame.to_numpy(), embeddings.vectors)


def test_tracks(model, classifier, tmp_path):
    genome = random_dna(1000, 5)
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": genome})
    track = classifier.track(fasta, ["1:101-500"], window=100, step=50)
    assert repr(track) == "TrackScores(8 rows, 400 bases: no, yes)"
    assert list(zip(track.starts, track.ends, strict=True)) == [(at, at + 50) for at in range(100, 500, 50)]
    windows = classifier.predict([genome[100:200], genome[150:250]]).probabilities
    np.testing.assert_allclose(track["yes"][:2], [windows[0, 1], windows[:, 1].mean()], atol=1e-6)
    assert list(track.to_pandas().columns) == ["contig", "start", "end", "strand", "no", "yes"]
    with pytest.raises(UserError, match="no channel 'maybe'; it has no, yes"):
        track["maybe"]
    bed = tmp_path / "b.bed"
    bed.write_text("chr1\t0\t90\nchr1\t200\t260\n")
    parts = list(model.iter_track(fasta, bed=bed, window=50, values="logp"))
    assert [(len(part), part.channels) for part in parts] == [
        (50, ("logp",)),
        (40, ("logp",)),
        (50, ("logp",)),
        (10, ("logp",)),
    ]
    assert (np.concatenate([part["logp"] for part in parts]) < 0).all()
    with pytest.raises(UserError, match="nothing was scored"):
        model.track(write_fasta(tmp_path / "n.fa", {"n": "N" * 50}))


def test_variants_are_scored_some_at_a_time(model, tmp_path):
    genome = random_dna(1000, 6)
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": genome})
    given = [("chr1", at, genome[at - 1], "ACGT"[("ACGT".index(genome[at - 1]) + 1) % 4]) for at in range(300, 700)]
    parts = list(model.iter_score_variants(fasta, given, scores=["emb"], flank=20, strand="+"))
    assert [len(part) for part in parts] == [256, 144]
    whole = model.score_variants(fasta, given, scores=["emb"], flank=20, strand="+")
    np.testing.assert_array_equal(np.concatenate([part["emb"] for part in parts]), whole["emb"])
