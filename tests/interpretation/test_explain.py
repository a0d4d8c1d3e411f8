"""One name for each method, in Python."""

import numpy as np
import pytest

from dnabert2_jax import DNABERT2
from dnabert2_jax.errors import UserError
from dnabert2_jax.interpretation import explain as module
from dnabert2_jax.interpretation.ism import ism
from tests.variants.helpers import LABELS


def test_python_gets_what_the_functions_give(classifier, sequences, capsys):
    named = dict(zip(sequences.names, sequences.sequences, strict=True))
    results = DNABERT2(classifier).explain(named, "ism", target=LABELS[0], batch_tokens=1, progress=True)
    for own, expected in zip(results, ism(classifier, sequences, LABELS[0], batch_tokens=1), strict=True):
        assert own.name == expected.name
        np.testing.assert_array_equal(own.values, expected.values)
    assert "explaining  64/64" in capsys.readouterr().err
    (maps,) = DNABERT2(classifier).explain(list(named.values())[:1], "attention", layers=[1], resolution="base")
    assert maps.weights.shape == (1, 4, 24, 24)


def test_an_unknown_method_or_option(classifier):
    model = DNABERT2(classifier)
    with pytest.raises(
        UserError, match=r"method 'salience' is unknown; accepted are ism, ig, .* \(did you mean 'saliency'\?\)"
    ):
        model.explain(["ACGT"], "salience")
    with pytest.raises(UserError, match=r"attention has no option 'layer'; it has layers, heads, resolution \(did you mean"):
        model.explain(["ACGT"], "attention", layer=1)
    with pytest.raises(UserError, match="dependency has no option 'target'"):
        model.explain(["ACGT"], "dependency", target="coding+")


def test_gradients_that_do_not_add_up_are_remarked_on(classifier, sequences, capsys, monkeypatch):
    monkeypatch.setattr(module, "incomplete", lambda results: f"{len(results)} do not add up")
    monkeypatch.setitem(module._METHODS, "ig", lambda model, sequences, title: sequences.names)
    DNABERT2(classifier).explain(["ACGT", "TTT"], "ig")
    assert capsys.readouterr().err == "warning: 2 do not add up\n"
