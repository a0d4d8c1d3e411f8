"""The whole pretraining step compiled for slices that are not here (`make aot`); tiny, since a real one takes minutes."""

import importlib.util
import math
import re
from collections import Counter
from dataclasses import replace

import jax
import pytest
from aot import tpu_devices

from benchmarks.pretraining_step import (
    CONFIGS,
    compile_step,
    compile_step_for_gpus,
    on_gpus,
    on_tpu,
    row_on_tpu,
    step_flops,
)
from dnabert2_jax.config.loading import load_run
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.models import count_parameters, masked_lm
from dnabert2_jax.parallel.mesh import make_mesh
from dnabert2_jax.parallel.rules import is_vector

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; run `make aot`"),
]

CHIPS, LAYERS = 4, 2
TINY = EncoderConfig(vocab_size=128, hidden_size=128, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=256)
PARAMETERS = count_parameters(masked_lm(TINY).abstract())
# Wide enough for a 64th part of each matrix to be whole tiles of the memory.
SIDES = replace(TINY, hidden_size=1024, num_attention_heads=16, intermediate_size=1024, vocab_size=1024)
PARAMETERS_OF_SIDES = count_parameters(masked_lm(SIDES).abstract())


def in_matrices(config):
    """Parameters in matrices, which are spread over the chips; vectors stay whole on every chip."""
    network = masked_lm(config)
    axes = jax.tree.leaves(network.axes(), is_leaf=lambda x: isinstance(x, tuple))
    leaves = jax.tree.leaves(network.abstract())
    return sum(leaf.size for leaf, names in zip(leaves, axes, strict=True) if not is_vector(names))


def a_run(*overrides):
    smaller = ["training.batch_size=32", "model.unroll=1", "model.parts=1"]
    return load_run(PretrainRun, CONFIGS / "pretrain_117m.toml", [*smaller, *overrides])


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def sharded(promotion):
    return compile_step(a_run(), TINY, "v5e:2x2").report()


def test_flops_are_those_of_the_formula():
    d, f, v, t, layers = 128, 256, 128, 128, LAYERS
    masked = round(0.15 * (t - 2))
    tokens = 32 * t
    expected = tokens * layers * (6 * (4 * d**2 + 3 * d * f) + 12 * t * d) + 32 * masked * 6 * (d**2 + d * v)
    assert step_flops(a_run(), TINY) == expected


def kernel_runs(report):
    runs = Counter()
    for kernel in report.account.kernels:
        runs[kernel.kernel] += kernel.runs
    return runs


def test_every_layer_runs_the_kernel_once_forward_and_once_backward(sharded):
    assert kernel_runs(sharded) == {"alibi_attention_short_forward": LAYERS, "alibi_attention_short_backward": LAYERS}


def test_an_unrolled_stack_is_charged_for_every_call(sharded):
    """The compiler writes one schedule for them all."""
    unrolled = compile_step(a_run(f"model.unroll={LAYERS}"), TINY, "v5e:2x2").report()
    assert kernel_runs(unrolled) == kernel_runs(sharded)
    assert sum(kernel.runs == 1 for kernel in unrolled.account.kernels) == 2 * LAYERS


def test_rows_in_parts_run_the_kernel_once_a_part(sharded):
    in_parts = compile_step(a_run("model.parts=2"), TINY, "v5e:2x2").report()
    assert kernel_runs(in_parts) == {name: 2 * runs for name, runs in kernel_runs(sharded).items()}


def test_along_the_sides_of_a_slice_nothing_is_an_all_reduce_but_vectors_and_sums():
    """Devices walk an 8x8 slice row by row, so that gathers and scatters have two stages of eight."""
    report = compile_step(a_run("training.batch_size=64"), SIDES, "v5e:8x8").report()
    kinds = Counter()
    for collective in report.account.collectives:
        kinds[collective.opcode] += collective.bytes * collective.runs
    sent = 2 * PARAMETERS_OF_SIDES * 63 / 64  # bfloat16, once
    assert sent < kinds["reduce-scatter"] + kinds["all-reduce"] < 1.2 * sent


def test_of_two_slices_each_chip_sends_the_other_only_its_own_part():
    """Gathers cross the slices first and scatters last, when a chip has a share of the gradients as small as it can be."""
    compiled = compile_step(a_run("training.batch_size=64"), SIDES, "2xv5e:2x2")
    sent = Counter()
    for computation in compiled.module.computations.values():
        for send in (instruction for instruction in computation if instruction.opcode == "send"):
            kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.attributes)
            sent[kind[1]] += math.prod(send.shape[0].dims)
    spread = in_matrices(SIDES)
    assert sent["ALL_GATHER"] == pytest.approx(spread / (2 * CHIPS), rel=0.01)
    assert sent["REDUCE_SCATTER"] == pytest.approx(spread / CHIPS, rel=0.15)  # some shares are padded to whole tiles
    assert sent["ALL_REDUCE"] < 0.01 * spread / CHIPS  # vectors and sums
    with pytest.raises(UserError, match=r"no cost model for the network between slices; .* \(v5e:2x2\)"):
        compiled.report()


def test_the_meshes_of_large_models_fit_the_slices_that_are_rented():
    for topology in ("v6e:16x16", "v5p:8x8x4", "v5e:16x16", "2xv5e:16x16"):
        devices = tpu_devices(topology)
        mesh = make_mesh(MeshOptions(fsdp=16, tensor=2), devices)  # configs/pretrain_1b.toml
        assert mesh.size == len(devices)


def test_gradients_cross_the_chips_and_are_charged(sharded):
    """Each chip sends at least its share of every gradient, and of every parameter that the others updated, in bfloat16."""
    sent = sum(c.bytes * c.runs for c in sharded.account.collectives)
    assert sent >= 2 * 2 * PARAMETERS * (CHIPS - 1) / CHIPS
    charged = sum((c.hidden + c.exposed) * c.runs for c in sharded.account.collectives)
    assert charged >= sent / sharded.chip.link_bytes_per_cycle  # two chips are no ring, and small messages take longer
    assert sharded.high.cycles > sharded.cycles


def test_weights_and_moments_of_a_chip_are_its_part(sharded):
    whole = compile_step(a_run("mesh.shard_optimizer=false"), TINY, "v5e:2x2").report()
    saved = whole.memory.arguments - sharded.memory.arguments
    # Small vectors are padded to tiles of the memory, wherever they are.
    assert saved == pytest.approx(3 * 4 * in_matrices(TINY) * (CHIPS - 1) / CHIPS, rel=0.05)


def test_the_figures_belong_together(capsys):
    run = a_run("mesh.fsdp=2", "mesh.tensor=2", "mesh.bfloat16_reduction=false", "model.remat=full")
    figures = on_tpu(run, TINY, "v5e:2x2")
    assert figures["chips"] == CHIPS
    cycles = figures["cycles"], figures["cycles_high"]
    assert cycles[0] < cycles[1]
    assert figures["estimated_mfu"] == pytest.approx(
        tuple(step_flops(run, TINY) / CHIPS / (131_072 * each) for each in reversed(cycles))
    )
    assert cycles == pytest.approx((sum(figures["classes"].values()), sum(figures["classes_high"].values())))
    assert figures["days"] == pytest.approx([500_000 * each / 1.5e9 / 86_400 for each in cycles])
    assert "estimated_mfu {:.3f} to {:.3f}".format(*figures["estimated_mfu"]) in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="no CUDA plugin; run `make aot`")
def test_of_gpus_memory_is_known_and_the_time_at_their_peak():
    run = a_run()
    figures = on_gpus(run, TINY, 2)
    assert 3 * 4 * PARAMETERS / 2 <= figures["memory"]["arguments"] < figures["memory"]["peak"]
    assert figures["days_at_peak"] == pytest.approx(500_000 * step_flops(run, TINY) / (2 * 989e12) / 86_400)


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="no CUDA plugin; run `make aot`")
@pytest.mark.parametrize("gpu", ["H100", "A100"])
def test_on_a_gpu_no_sum_of_a_step_depends_on_the_order_of_threads(gpu):
    """A float that is added atomically is rounded in another order in every run, and a resumed run then differs."""
    step = compile_step_for_gpus(a_run(), TINY, gpu, 2)
    assert [name for name in step.atomics if "cas" in name or ".f" in name or ".bf" in name] == []


def test_chips_that_share_a_row_need_the_memory_of_their_tokens(capsys):
    """A chip with a quarter of a row needs little more than for a whole row of a quarter of the length."""
    each = 2**16

    def memory(rows, shares):
        sizes = [f"training.batch_size={rows}", f"mesh.sequence={shares}", f"data.tokens_per_row={shares * each}"]
        figures = row_on_tpu(a_run("model.remat=full", *sizes), TINY, "v5e:2x2")
        assert (figures["chips"], figures["tokens_per_chip"]) == (CHIPS, each)
        assert f"{figures['peak'] / 2**30:.2f} of 16 GiB per chip" in capsys.readouterr().out
        return figures["memory"]["temporaries"]

    shared, alone = memory(1, CHIPS), memory(CHIPS, 1)
    assert alone < shared < 1.5 * alone


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="does not fit the 4 devices"):
        compile_step(a_run("mesh.fsdp=3", "mesh.bfloat16_reduction=false"), TINY, "v5e:2x2")
