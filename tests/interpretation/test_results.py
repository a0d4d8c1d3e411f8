"""Files of explanations, read back: npz and HDF5, with every method's arrays, and TF-MoDISco's input."""

import json

import h5py
import numpy as np
import pytest

from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.interpretation.modisco import check_lengths, save_modisco
from dnabert2_jax.interpretation.results import save_explanations

RNG = np.random.default_rng(0)
RECORD = {"command": "explain ism", "model": "m"}
NAN = np.float32(np.nan)


def mutated(name: str, letters: str) -> MutationScores:
    values = RNG.normal(size=(len(letters), 4)).astype(np.float32)
    values[[letter not in "ACGT" for letter in letters]] = NAN
    return MutationScores(name, letters, "log-odds of x", values)


def attributed(name: str, letters: str, bases: list[int], baseline: float = 0.25) -> Attributions:
    ids = RNG.integers(5, 60, len(bases)).astype(np.int32)
    values = RNG.normal(size=len(bases)).astype(np.float32)
    value = baseline + float(values.sum(dtype=np.float64))
    return Attributions(name, letters, "log-odds of x", ids, np.array(bases, np.int32), values, value, baseline)


def read(path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as file:  # without pickle
            return dict(file)
    with h5py.File(path) as file:
        arrays = {name: data.asstr()[:] if data.dtype.kind == "O" else data[:] for name, data in file.items()}
        return {**arrays, "record": file.attrs["record"]}


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_mutagenesis(tmp_path, suffix):
    results = [mutated("a", "ACGTN"), mutated("b", "GG")]
    places = {"contigs": ["chr1", "chr2"], "starts": np.array([5, 9]), "ends": np.array([10, 11]), "strands": ["+", "-"]}
    save_explanations(tmp_path / f"x{suffix}", results, RECORD, places)
    found = read(tmp_path / f"x{suffix}")
    assert found["names"].tolist() == ["a", "b"]
    assert found["sequences"].tolist() == ["ACGTN", "GG"]
    assert found["contigs"].tolist() == ["chr1", "chr2"]
    assert found["starts"].tolist() == [5, 9]
    assert found["offsets"].tolist() == [0, 5, 7]
    np.testing.assert_array_equal(found["values"][5:], results[1].values)
    np.testing.assert_array_equal(found["scores"][:5], results[0].scores)
    np.testing.assert_array_equal(found["contributions"][5:], results[1].scores[:, 2])
    assert np.isnan(found["contributions"]).tolist() == [False] * 4 + [True] + [False] * 2
    assert json.loads(str(found["record"])) == RECORD


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_gradients(tmp_path, suffix):
    results = [attributed("a", "ACGTN", [3, 2]), attributed("b", "GG", [1, 1])]
    save_explanations(tmp_path / f"x{suffix}", results, RECORD)
    found = read(tmp_path / f"x{suffix}")
    assert found["offsets"].tolist() == [0, 5, 7]
    assert found["token_offsets"].tolist() == [0, 2, 4]
    assert found["token_bases"].tolist() == [3, 2, 1, 1]
    np.testing.assert_array_equal(found["token_values"][2:], results[1].token_values)
    np.testing.assert_allclose(found["contributions"][:5], np.repeat(results[0].token_values / [3, 2], [3, 2]), rtol=1e-6)
    assert found["baseline_value"].tolist() == [0.25, 0.25]
    assert (found["completeness_error"] < 1e-6).all()
    assert "contigs" not in found


def test_saliency_has_no_baseline(tmp_path):
    save_explanations(tmp_path / "x.npz", [attributed("a", "ACG", [3], float("nan"))], RECORD)
    assert {"value"} <= read(tmp_path / "x.npz").keys()
    assert not {"baseline_value", "completeness_error"} & read(tmp_path / "x.npz").keys()


def test_squares(tmp_path):
    maps = [
        AttentionMaps(
            "a",
            "ACGT",
            (0, 3),
            (1,),
            np.array([1, 9, 2], np.int32),
            np.array([0, 4, 0], np.int32),
            "token",
            RNG.random((2, 1, 3, 3), np.float32),
        )
    ]
    save_explanations(tmp_path / "x.h5", maps, RECORD)
    found = read(tmp_path / "x.h5")
    np.testing.assert_array_equal(found["attention_0"], maps[0].weights)
    assert (found["layers"].tolist(), found["heads"].tolist()) == ([0, 3], [1])
    assert found["token_ids"].tolist() == [1, 9, 2]
    both = [
        DependencyMap("a", "AC", RNG.random((2, 2), np.float32)),
        DependencyMap("b", "ACG", RNG.random((3, 3), np.float32)),
    ]
    save_explanations(tmp_path / "y.npz", both, RECORD)
    np.testing.assert_array_equal(read(tmp_path / "y.npz")["dependency_1"], both[1].values)


def test_input_of_modisco(tmp_path):
    results = [mutated("a", "ACGTN"), mutated("b", "GGGTC")]
    save_modisco(tmp_path / "m", results)
    (one_hot,), (scores,) = (np.load(tmp_path / "m" / name).values() for name in ("ohe.npz", "shap.npz"))
    assert one_hot.shape == scores.shape == (2, 4, 5)
    assert one_hot.dtype == scores.dtype == np.float32
    assert one_hot[0].tolist() == np.eye(4, 5).tolist()
    assert ["ACGT"[n] for n in one_hot[1].argmax(0)] == list("GGGTC")
    np.testing.assert_array_equal(scores[1], results[1].scores.T)
    assert scores[0, :, 4].tolist() == [0, 0, 0, 0]
    assert list(np.load(tmp_path / "m" / "ohe.npz")) == ["arr_0"]  # the name that TF-MoDISco reads


def test_input_of_modisco_from_gradients(tmp_path):
    (result,) = results = [attributed("a", "ACGTN", [3, 2])]
    save_modisco(tmp_path / "m", results)
    (scores,) = np.load(tmp_path / "m" / "shap.npz").values()
    np.testing.assert_array_equal(scores[0].sum(0)[:4], result.contributions[:4])
    assert np.count_nonzero(scores) == 4
    with pytest.raises(UserError, match="exists"):
        save_modisco(tmp_path / "m", results)
    save_modisco(tmp_path / "m", results, force=True)


def test_modisco_needs_sequences_of_one_length():
    check_lengths(given_sequences(["ACG", "TTT"]))
    with pytest.raises(UserError, match="sequences, '3': 4 bases, but '1' has 3: TF-MoDISco needs sequences of one length"):
        check_lengths(given_sequences(["ACG", "TTT", "ACGT"]))
