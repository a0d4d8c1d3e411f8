import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.data.base_labels import BaseLabels
from dnabert2_jax.data.base_windows import encode_bases
from dnabert2_jax.data.by_length import choose_lengths, epoch_batches, evaluation_batches
from dnabert2_jax.data.encoding import EncodedTable
from dnabert2_jax.data.packed_epochs import pack_epochs
from dnabert2_jax.draws import record_seeds
from dnabert2_jax.modeling.models import base_classifier, class_logits, masked_lm, sequence_classifier
from dnabert2_jax.tokenizer.special import CLS, PAD, SEP
from dnabert2_jax.training.objectives import (
    Sums,
    _binary_cross_entropy,
    _cross_entropy,
    balanced_label_weights,
    balanced_weights,
    classification_loss,
    frequency_logits,
    masked_lm_means,
    mlm_loss,
    mlm_loss_by_species,
    multi_label_loss,
    regression_loss,
)
from dnabert2_jax.types import ClassificationBatch
from tests.data.helpers import encoded_table
from tests.helpers import classification_batch, mlm_batch, tiny_config, tiny_tokenizer

LENGTHS = [16, 12, 16, 7, 16, 9]


@pytest.fixture(scope="module")
def mlm():
    """(params, loss(params, batch, training)) of a tiny masked language model."""
    network = masked_lm(tiny_config())
    loss = mlm_loss(network)
    return network.init(0), jax.jit(lambda params, batch, training: loss(params, {}, batch, training), static_argnums=2)


@pytest.fixture(scope="module")
def classifier():
    network = sequence_classifier(tiny_config(), 2)
    loss = classification_loss(network)
    return network.init(0), jax.jit(lambda params, batch, training: loss(params, {}, batch, training), static_argnums=2)


def take(batch, rows):
    return jax.tree.map(lambda x: x[rows], batch)


def widen(batch, width):
    """The rows of a batch, padded to another width."""
    extra = width - batch.tokens.input_ids.shape[1]
    padded = [np.pad(x, ((0, 0), (0, extra)), constant_values=c) for x, c in zip(batch.tokens, (PAD, 0, 0), strict=True)]
    return batch._replace(tokens=type(batch.tokens)(*padded))


def of_row(loss, params, batch, row):
    """Training loss of one row within its batch: all others weigh nothing."""
    weights = "masked_weights" if hasattr(batch, "masked_weights") else "weights"
    alone = np.zeros_like(getattr(batch, weights))
    alone[row] = getattr(batch, weights)[row]
    return loss(params, batch._replace(**{weights: alone}), True)


def test_sums_against_numpy():
    rng = np.random.default_rng(0)
    logits = 5 * rng.standard_normal((3, 4, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (3, 4)).astype(np.int32)
    labels[0] = logits[0].argmax(-1)
    weights = (rng.random((3, 4)) < 0.6).astype(np.float32)
    wide = logits.astype(np.float64)
    log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    sums = _cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights))
    assert float(sums.loss) == pytest.approx(-(chosen * weights).sum(), rel=1e-5)
    assert float(sums.correct) == ((logits.argmax(-1) == labels) * weights).sum() > 0
    assert float(sums.weight) == weights.sum()


def test_sums_become_means():
    scores = masked_lm_means(Sums(jnp.float32(20), jnp.float32(3), jnp.float32(10)))
    assert scores == {"loss": 2.0, "perplexity": pytest.approx(np.e**2), "masked_accuracy": pytest.approx(0.3)}
    assert masked_lm_means(Sums(jnp.float32(1e4), jnp.float32(0), jnp.float32(1)))["perplexity"] == np.inf


@pytest.mark.parametrize("kind", ["mlm", "classifier"])
def test_a_rows_loss_does_not_depend_on_its_batch_or_padding(kind, request):
    """Dropout and all: the keys come from (seed, record), so the batch that a record lands in does not matter."""
    params, loss = request.getfixturevalue(kind)
    batch = mlm_batch(LENGTHS) if kind == "mlm" else classification_batch(LENGTHS)
    order = [3, 0, 5]
    elsewhere = widen(take(batch, order), 24)
    for place, row in enumerate(order):
        here, there = (of_row(loss, params, b, r) for b, r in ((batch, row), (elsewhere, place)))
        assert float(there.loss) == pytest.approx(float(here.loss), rel=2e-6)
        assert float(there.correct) == float(here.correct)


@pytest.mark.parametrize("kind", ["mlm", "classifier"])
def test_dropout_acts_in_training_and_follows_the_record(kind, request):
    params, loss = request.getfixturevalue(kind)
    batch = mlm_batch(LENGTHS) if kind == "mlm" else classification_batch(LENGTHS)
    other = batch._replace(dropout_seeds=record_seeds(99, np.arange(len(LENGTHS))))
    training, again, elsewhere = (float(loss(params, b, True).loss) for b in (batch, batch, other))
    assert training == again
    assert abs(training - elsewhere) > 1e-4
    assert float(loss(params, batch, False).loss) == float(loss(params, other, False).loss) != training


def test_fill_rows_give_no_gradient_at_all(classifier):
    params, loss = classifier
    batch = classification_batch(LENGTHS, fill=2)
    gradient = jax.jit(jax.grad(lambda p, b: loss(p, b, True).loss))
    nothing = gradient(params, batch._replace(weights=np.zeros_like(batch.weights)))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing))

    # Whatever stands in fill rows, the gradient of the others is the same, bit for bit.
    ids, labels = batch.tokens.input_ids.copy(), 1 - batch.labels
    ids[4:, 1:5] = 9
    labels[:4] = batch.labels[:4]
    changed = batch._replace(tokens=batch.tokens._replace(input_ids=ids), labels=labels)
    first, second = gradient(params, batch), gradient(params, changed)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(first))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_unused_slots_of_a_short_row_say_nothing(mlm):
    params, loss = mlm
    batch = mlm_batch(LENGTHS)
    unused = batch.masked_weights == 0
    assert unused.any()
    other = np.where(unused, 33, batch.masked_labels)
    assert float(loss(params, batch, True).loss) == float(loss(params, batch._replace(masked_labels=other), True).loss)


def log_softmax(logits):
    wide = np.asarray(logits, np.float64)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def test_smoothing_and_class_weights_against_numpy(classifier):
    params, _ = classifier
    network = sequence_classifier(tiny_config(), 2)
    batch = classification_batch(LENGTHS, fill=1)
    weights = np.array([0.5, 3.0], np.float32)
    loss = classification_loss(network, label_smoothing=0.2, class_weights=tuple(weights.tolist()))
    sums = jax.jit(lambda p: loss(p, {}, batch, False))(params)
    log_p = log_softmax(jax.jit(lambda p: network.bind(p).logits(batch.tokens))(params))
    target = 0.8 * np.eye(2)[batch.labels] + 0.1
    each = -(target * log_p).sum(1) * weights[batch.labels]
    real = batch.weights > 0
    assert float(sums.loss) == pytest.approx(each[real].sum(), rel=1e-5)
    assert float(sums.weight) == real.sum() == 5
    assert float(sums.correct) == (log_p.argmax(1) == batch.labels)[real].sum()


@pytest.mark.parametrize("slots", [False, True], ids=["rows", "slots"])
def test_several_labels_and_measurements_against_numpy(slots):
    """Rows of their own, and as the only slot of a row, which is how packed rows look."""
    rng = np.random.default_rng(3)
    batch = classification_batch(LENGTHS, fill=1)
    real = batch.weights > 0
    has = rng.integers(0, 2, (len(LENGTHS), 3)).astype(np.float32)
    values = (100 + 7 * rng.standard_normal(len(LENGTHS))).astype(np.float32)
    for labels, width in ((has, 3), (values, 1)):
        network = sequence_classifier(tiny_config(), width)
        params = jax.tree.map(lambda x: 3 * x, network.init(1))  # logits far from zero
        logits = np.asarray(jax.jit(lambda p, n=network: n.bind(p).logits(batch.tokens))(params), np.float64)
        if width == 3:
            loss = multi_label_loss(network)
            p = 1 / (1 + np.exp(-logits))
            each = -np.where(has > 0, np.log(p), np.log(1 - p)).mean(1)
            correct = ((p > 0.5) == (has > 0)).mean(1)[real].sum()
        else:
            loss = regression_loss(network, mean=95.0, deviation=6.0)
            each, correct = (logits[:, 0] - (values.astype(np.float64) - 95) / 6) ** 2, 0
        given = batch._replace(labels=labels)
        if slots:
            given = batch._replace(
                labels=labels[:, None],
                weights=batch.weights[:, None],
                starts=np.zeros((len(LENGTHS), 1), np.int32),
            )
        sums = jax.jit(lambda p, loss=loss, given=given: loss(p, {}, given, False))(params)
        assert float(sums.loss) == pytest.approx(each[real].sum(), rel=1e-5)
        assert float(sums.weight) == real.sum()
        assert float(sums.correct) == pytest.approx(correct)


def test_no_smoothing_and_equal_weights_are_the_plain_loss(classifier):
    params, plain = classifier
    batch = classification_batch(LENGTHS, fill=1)
    loss = classification_loss(sequence_classifier(tiny_config(), 2), class_weights=(1.0, 1.0))
    for mine, wanted in zip(jax.jit(lambda p: loss(p, {}, batch, False))(params), plain(params, batch, False), strict=True):
        assert float(mine) == pytest.approx(float(wanted), rel=1e-6)


def pairs_of(lengths, seed) -> EncodedTable:
    """Pairs of random pieces, cut anywhere."""
    rng = np.random.default_rng(seed)
    rows = [np.array([CLS, *rng.integers(5, 64, n - 2), SEP], np.int32) for n in lengths]
    sizes = np.array(lengths, np.int32)
    return encoded_table(rows, np.arange(len(rows)) % 3 % 2, rng.integers(2, sizes, dtype=np.int32))


def test_packed_rows_have_the_losses_and_gradients_of_one_sequence_a_row():
    config = tiny_config(initializer_range=0.2)
    table = pairs_of(np.random.default_rng(0).integers(5, 30, 10).tolist(), 1)
    network = sequence_classifier(config, 2)
    params = network.init(3)
    loss = classification_loss(network)

    @jax.jit
    def gradient(batch):
        return jax.grad(lambda p: (lambda sums: (sums.loss, sums))(loss(p, {}, batch, False)), has_aux=True)(params)

    (padded,) = epoch_batches(table, 10, 0, 0, (32,))
    ((packed,),) = pack_epochs([table], 10, 0, hidden_size=4096, max_shapes=1)
    assert packed.tokens.input_ids.shape[0] <= 5
    (of_padded, sums), (of_packed, packed_sums) = gradient(padded), gradient(packed)
    assert float(packed_sums.loss) == pytest.approx(float(sums.loss), rel=1e-5)
    assert (float(packed_sums.correct), float(packed_sums.weight)) == (float(sums.correct), 10)
    for mine, wanted in zip(jax.tree.leaves(of_packed), jax.tree.leaves(of_padded), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=2e-5 * float(jnp.abs(wanted).max()))


def test_sums_by_species_are_those_of_its_rows():
    network = masked_lm(tiny_config())
    params, batch = network.init(0), mlm_batch([16, 12, 9, 16])
    numbers = np.array([2, 0, 2, 2], np.int32)
    sums = mlm_loss_by_species(network, 4)(params, {}, (batch, numbers), False)
    assert sums.loss.shape == (4,)
    for species in range(4):
        weights = batch.masked_weights * (numbers == species)[:, None].astype(np.float32)
        alone = mlm_loss(network)(params, {}, batch._replace(masked_weights=weights), False)
        np.testing.assert_allclose([x[species] for x in sums], alone, rtol=1e-6)


@pytest.mark.parametrize("several", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bases_that_do_not_count_have_no_part_in_loss_and_gradient(several):
    """Whatever the label there, and for a row that only fills the batch."""
    network = base_classifier(tiny_config(), 3)
    params = network.init(0)
    encoded = encode_bases(["ACGTNNACGTTACGA", "TTGACA"], tiny_tokenizer(), 16)
    [rows] = evaluation_batches(encoded, 4, choose_lengths(encoded.lengths, 1))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (4, 16, 3)).astype(np.float32) if several else rng.integers(0, 3, (4, 16)).astype(np.int32)
    weights = ((rows.bases.letters >= 0) & (rows.bases.letters < 4)).astype(np.float32)
    batch = ClassificationBatch(rows.tokens, labels, weights, np.arange(4, dtype=np.uint32), rows.rows, bases=rows.bases)
    loss = multi_label_loss(network) if several else classification_loss(network)
    gradient = jax.jit(jax.value_and_grad(lambda p, batch: (sums := loss(p, {}, batch, False)).loss / sums.weight))
    own, other = (
        batch,
        batch._replace(labels=np.where((weights > 0)[..., None] if several else weights > 0, labels, 1 - labels * 0)),
    )
    (first, grads), (second, grads_of_other) = gradient(params, own), gradient(params, other)
    assert first == second
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (grads, grads_of_other)), strict=True))
    assert jax.jit(lambda p, b: loss(p, {}, b, False).weight)(params, batch) == 13 + 6

    logits = np.asarray(jax.jit(lambda p, b: class_logits(network, p, b, None))(params, rows))
    each = (
        np.log1p(np.exp(np.where(labels > 0, -logits, logits))).mean(-1)
        if several
        else -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), labels[..., None], -1)[..., 0]
    )
    assert first == pytest.approx((each * weights).sum() / weights.sum(), rel=1e-5)


def test_the_bias_of_frequencies_predicts_them():
    labels = np.array([[0, 0, 0, 1], [0, 0, 2, -1]])
    bias = frequency_logits(labels, BaseLabels(("background", "donor", "acceptor"), several=False, window=64))
    np.testing.assert_allclose(jax.nn.softmax(bias), [5 / 7, 1 / 7, 1 / 7], rtol=1e-6)
    several = np.array([[[0, 1], [0, 1], [1, 1], [-1, -1]]])
    bias = frequency_logits(several, BaseLabels(("exon", "repeat"), several=True, window=64))
    np.testing.assert_allclose(jax.nn.sigmoid(bias), [1 / 3, 3 / 4], rtol=1e-6)  # one that is always there: as if not once


def test_balanced_weights_of_bases_leave_out_those_that_do_not_count():
    weights = balanced_weights(np.array([[0, 0, 0, 1], [0, 0, 1, -1]]), 3)
    np.testing.assert_allclose(weights[:2], [7 / (3 * 5), 7 / (3 * 2)], rtol=1e-6)
    assert np.isfinite(weights).all()


def focal_reference(p, gamma):
    """(1 - p)^gamma times -ln p, and its derivative with respect to p, in float64."""
    loss = -((1 - p) ** gamma) * np.log(p)
    return loss, gamma * (1 - p) ** (gamma - 1) * np.log(p) - (1 - p) ** gamma / p


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.5])
def test_focal_loss_of_classes_has_its_closed_form(gamma):
    """The weights of the predictions are random cotangents."""
    rng = np.random.default_rng(1)
    logits = 3 * rng.standard_normal((5, 4))
    labels, cotangents = rng.integers(0, 4, 5), rng.standard_normal(5)
    p = np.exp(log_softmax(logits))
    right = p[np.arange(5), labels]
    loss, by_p = focal_reference(right, gamma)
    by_logits = (cotangents * by_p * right)[:, None] * (np.eye(4)[labels] - p)
    given = [jnp.asarray(logits, jnp.float32), jnp.asarray(labels), jnp.asarray(cotangents, jnp.float32)]
    found, gradient = jax.value_and_grad(lambda z: _cross_entropy(z, *given[1:], gamma).loss)(given[0])
    assert float(found) == pytest.approx((cotangents * loss).sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, by_logits, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_several_labels_has_its_closed_form(gamma):
    rng = np.random.default_rng(2)
    logits = 3 * rng.standard_normal((5, 3))
    labels, cotangents = rng.integers(0, 2, (5, 3)), rng.standard_normal(5)
    class_weights = rng.random((2, 3)) + 0.5
    sign = 2 * labels - 1
    p = 1 / (1 + np.exp(-sign * logits))
    loss, by_p = focal_reference(p, gamma)
    factors = cotangents[:, None] * class_weights[labels, np.arange(3)] / 3
    given = [jnp.asarray(x, jnp.float32) for x in (logits, labels, cotangents)]
    found, gradient = jax.value_and_grad(
        lambda z: _binary_cross_entropy(z, *given[1:], class_weights.astype(np.float32), gamma).loss
    )(given[0])
    assert float(found) == pytest.approx((factors * loss).sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, factors * by_p * p * (1 - p) * sign, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_finite_where_the_probability_rounds_to_one(gamma):
    logits = jnp.array([[200.0, -200.0], [-200.0, 200.0]])
    labels, weights = jnp.array([0, 0]), jnp.ones(2)
    for loss in (
        lambda z: _cross_entropy(z, labels, weights, gamma).loss,
        lambda z: _binary_cross_entropy(z, jnp.array([[1.0, 0.0], [1.0, 0.0]]), weights, None, gamma).loss,
    ):
        found, gradient = jax.value_and_grad(loss)(logits)
        assert float(found) == pytest.approx(400, rel=1e-6) or float(found) == pytest.approx(200, rel=1e-6)
        assert np.isfinite(np.asarray(gradient)).all()
        assert np.abs(gradient[1]).max() > 0.1


def test_a_gamma_of_zero_is_cross_entropy_to_the_bit(classifier):
    params, plain = classifier
    batch = classification_batch(LENGTHS, fill=1)
    zero = classification_loss(sequence_classifier(tiny_config(), 2), focal_gamma=0.0)
    assert jax.jit(lambda p: zero(p, {}, batch, True))(params) == plain(params, batch, True)


def test_the_presence_and_the_absence_of_each_label_weigh_the_same():
    labels = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1], [-1, -1, -1]])
    weights = balanced_label_weights(labels)
    np.testing.assert_allclose(weights, [[4 / 6, 4 / 8, 4 / 2], [4 / 2, 4 / 2, 4 / 6]])
    counted = labels[:4]
    for label in (0, 2):
        own = weights[counted[:, label], label]
        assert own[counted[:, label] == 1].sum() == pytest.approx(own[counted[:, label] == 0].sum())
        assert own.mean() == pytest.approx(1)
    np.testing.assert_array_equal(balanced_label_weights(labels[None]), weights)  # of bases
