"""Outputs, loss and gradients against PyTorch, on every attention backend.

Two sources: the committed cases, made by multimolecule in float64 (``tools/make_parity_cases.py``), and outputs of the
original's own code with pair segments (development fixtures, where they are present). Weights pass through the conversion
table.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import Forward, Predictor
from dnabert2_jax.inference.token_ids import TokenIdOutputs
from dnabert2_jax.kernels.attention import BACKENDS
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm
from tests.helpers import tiny_tokenizer
from tests.modeling.reference import COMMITTED, INTERPRETED, ORIGINAL, jit, load_case, worst


@pytest.fixture(autouse=True, scope="module")
def the_last_block_goes_its_own_way():
    """As in batches of real size; no other test has traced, or will find, these programs."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.modeling.block._MIN_TOKENS", 0)
        yield
    jax.clear_caches()


TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}


@pytest.fixture
def case(request):
    original = request.param in ORIGINAL
    return load_case(request.param, request.getfixturevalue("shared_dir") if original else Path())


def combinations(*slow, quick_interpreted=()):
    """Every case with every backend; interpreted kernels take long, so that only the cases named for them are quick."""

    def is_slow(name, backend):
        return name in slow or (backend in INTERPRETED and name not in quick_interpreted)

    return pytest.mark.parametrize(
        ("case", "backend"),
        [
            pytest.param(name, backend, marks=pytest.mark.slow if is_slow(name, backend) else ())
            for name in (*COMMITTED, *ORIGINAL)
            for backend in BACKENDS
        ],
        indirect=["case"],
    )


def served(backend, call):
    """What ``call`` returns; the test is skipped where the backend says that it does not serve such sizes here."""
    try:
        return call()
    except UserError as error:
        pytest.skip(f"{backend} does not serve here: {error}")


def assert_outputs(case, backend, precision):
    errors = served(backend, lambda: list(case.output_errors(backend, precision)))
    assert {"hidden", "mlm_logits", "pooled", "class_logits"} == {output for _, output, _ in errors}
    for batch, output, error in errors:
        if precision == "bfloat16" and output == "pooled":
            continue  # 3.4e-2 on the original's heads12, where PyTorch in bfloat16 is 5.4e-2 off; its logits are in
        assert error <= TOLERANCE[precision], (batch, output)


@combinations(quick_interpreted=("heads12",))  # which have all slopes of 8 heads
def test_outputs(case, backend):
    assert_outputs(case, backend, "float32")


@combinations("heads8")  # tests/kernels has bfloat16 and gradients of every backend
def test_outputs_in_bfloat16(case, backend):
    assert_outputs(case, backend, "bfloat16")


@combinations("heads8")
def test_loss_and_gradients(case, backend):
    loss, gradients = served(backend, lambda: case.gradient_errors(backend))
    assert loss < 1e-6
    assert len(gradients) >= 9
    for name, error in gradients.items():
        assert error <= 1e-4, name


def as_used(case, kind):
    """What is behind the methods of :class:`dnabert2_jax.DNABERT2`."""
    labels = tuple(map(str, range(case.num_labels))) if kind == "classifier" else ()
    compute = Compute("float32", "reference")
    predictor = Predictor(Forward(case.config, compute, len(labels)), case.params[kind])
    return TokenIdOutputs(InferenceModel(Path(kind), kind, tiny_tokenizer(), labels, predictor))


@pytest.mark.parametrize("name", ORIGINAL)
def test_padding_is_as_in_the_original(name, shared_dir):
    case = load_case(name, shared_dir)
    model, batch = as_used(case, "masked_lm"), case.batches["single_pair"]
    assert (batch.tokens.segment_ids == 0).any()
    assert worst(model("hidden_states", batch.tokens), batch.expected["hidden"]) <= 2e-5
    assert worst(model("mlm_logits", batch.tokens), batch.expected["mlm_logits"]) <= 2e-5


def test_public_methods():
    case = load_case("heads12", Path())
    language, classifier, batch = as_used(case, "masked_lm"), as_used(case, "classifier"), case.batches["rows"]
    for model, output in ((language, "mlm_logits"), (classifier, "pooled"), (classifier, "class_logits")):
        assert worst(batch.real(model(output, batch.tokens)), batch.real(batch.expected[output])) <= 2e-5, output


def test_dropout_is_off_in_evaluation_and_on_in_training():
    case = load_case("heads8", Path())
    assert case.config.hidden_dropout_prob == 0.1
    batch, network = case.batches["rows"], masked_lm(case.config)
    hidden = jit(lambda params, seeds: network.bind(params).encoder(batch.tokens, dropout_seeds=seeds))
    evaluated, trained = (np.asarray(hidden(case.params["masked_lm"], seeds)) for seeds in (None, np.zeros(3, np.uint32)))
    expected = batch.real(batch.expected["hidden"])
    assert worst(batch.real(evaluated), expected) <= 2e-5
    assert worst(batch.real(trained), expected) > 0.1


def test_label_zero_counts():
    """The original leaves labels <= 0 out, among them [UNK]; here every label of a masked position is learned."""
    case = load_case("heads8", Path())
    masked, zeros = case.labels != -100, case.labels == 0
    assert zeros.sum() == 2
    log_p = np.asarray(jax.nn.log_softmax(case.batches["rows"].expected["mlm_logits"]))
    nats = -np.take_along_axis(log_p, np.where(masked, case.labels, 0)[..., None], axis=-1)[..., 0]
    # The loss that test_loss_and_gradients expects is the mean with the zeros, and far from the one without.
    assert abs(nats[masked].mean() / case.loss - 1) < 1e-6
    assert abs(nats[masked & ~zeros].mean() / case.loss - 1) > 0.01
