"""Loss and gradients of a step whose devices share the tokens of each row are those of one device."""

from functools import cache
from itertools import product

import jax
import numpy as np
import pytest

from dnabert2_jax.config.sections import MaskingConfig, MeshOptions
from dnabert2_jax.data.masking import mask_rows
from dnabert2_jax.modeling import block
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.parallel.layout import make_layout
from dnabert2_jax.parallel.mesh import make_mesh
from dnabert2_jax.training.objectives import mlm_loss, mlm_loss_by_species
from dnabert2_jax.training.step import make_eval_step
from tests.helpers import random_tokens, tiny_config

TOKENS = 208  # 26 for each of eight devices; 31 masked slots, which no number of devices divides
SPECIES = np.int32([1, 0, 1])
TOLERANCE = 1e-5  # as in test_sharded_step


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def batch_of(packed):
    tokens = random_tokens([TOKENS, 150, TOKENS], TOKENS)
    if packed:  # sequences that begin and end within a device's share, or go over several
        segments = np.stack([np.repeat([1, 2, 3], n) for n in ([10, 120, 78], [70, 50, 88], [26, 30, 152])])
        tokens = tokens._replace(segment_ids=np.where(tokens.segment_ids > 0, segments, 0).astype(np.int32))
    return mask_rows(tokens, MaskingConfig(), seed=0, records=np.arange(3), vocab_size=64)


@cache
def gradients(devices, packed, steep, remat="none"):
    """Gradients, sums of the loss, and sums in evaluation by species."""
    with pytest.MonkeyPatch.context() as patch:
        if steep:  # heads that see 30 to 100 tokens, where the model's own would see thousands
            jax.clear_caches()
            slopes = block.alibi_slopes
            patch.setattr(block, "alibi_slopes", lambda heads: 256 * slopes(heads))
        network = masked_lm(tiny_config(), Compute(remat=remat))
        options = MeshOptions(data=1, sequence=devices)
        layout = make_layout(options, make_mesh(options), network.abstract(), network.axes(), tiny_config())

        def sums(trainable, frozen, batch):
            def objective(trainable):
                total = mlm_loss(network)(trainable, frozen, batch, True)
                return total.loss, total

            return jax.grad(objective, has_aux=True)(trainable)

        batch, params = batch_of(packed), jax.device_get(network.init(0))
        params["encoder"]["layers"]["Wqkv"]["kernel"] = (
            10 * params["encoder"]["layers"]["Wqkv"]["kernel"]
        )  # attention matters
        params = layout.place(params)
        found = jax.jit(layout.add_up(sums, gradients=True))(params, {}, layout.batch(batch, 3))
        evaluate = make_eval_step(mlm_loss_by_species(network, 2), layout)
        by_species = evaluate(params, {}, layout.batch((batch, SPECIES), 3))
        if steep:
            jax.clear_caches()
        return jax.device_get((*found, by_species))


def cases():
    """Devices, packed, steep."""
    for case in product((2, 4, 8), (False, True), (False, True)):
        quick = case in ((8, True, False), (8, True, True), (4, False, False))
        yield pytest.param(*case, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("devices", "packed", "steep"), list(cases()))
def test_devices_that_share_rows_do_what_one_does(devices, packed, steep):
    found, expected = gradients(devices, packed, steep), gradients(1, packed, steep)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=TOLERANCE), found[1:], expected[1:])

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * max(np.abs(b).max(), 1e-3))

    jax.tree.map(same, found[0], expected[0])
    assert min(np.abs(g).max() for g in jax.tree.leaves(expected[0])) > 1e-3


def test_steep_heads_are_another_case():
    wide, steep = (gradients(1, True, steep)[0]["encoder"]["layers"]["Wqkv"]["kernel"] for steep in (False, True))
    assert np.abs(wide - steep).max() > 0.1 * np.abs(wide).max()


def test_what_is_computed_again_changes_nothing():
    found, expected = gradients(8, True, False, remat="full"), gradients(8, True, False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max()), found[0], expected[0])


def test_no_device_ever_has_the_hidden_states_of_a_whole_row():
    """What crosses devices is as long as a row only where it has four bytes per token, or as many rows as slots."""
    network = masked_lm(tiny_config())
    options = MeshOptions(data=1, sequence=8)
    layout = make_layout(options, make_mesh(options), network.abstract(), network.axes(), tiny_config())
    loss = layout.add_up(lambda *arguments: mlm_loss(network)(*arguments, True), gradients=False)
    program = jax.jit(loss).lower(network.abstract(), {}, layout.batch(batch_of(False), 3))
    optimized = program.compile().as_text()
    assert "all-gather" in optimized  # of positions
    assert f"f32[3,{TOKENS},32]" not in optimized
    assert f"f32[3,{TOKENS // 8},32]" in optimized
