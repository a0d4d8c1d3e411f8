import jax
import jax.numpy as jnp
import pytest
from aot.chips import CHIPS

from dnabert2_jax.platform import TPUS, PerPlatform, peak_flops, tracing_for, vmem_bytes


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6e", 918e12),
        ("cpu", None),
    ],
)
def test_peaks_by_device_kind(kind, peak):
    assert peak_flops(kind) == peak


def test_an_unknown_tpu_is_assumed_to_have_the_least_on_chip_memory():
    assert vmem_bytes("v6e") == 128 * 2**20
    assert vmem_bytes("v99") == 16 * 2**20


@pytest.mark.parametrize(("name", "flops", "memory"), [("v5e", 131_072, 546), ("v5p", 262_144, 1580), ("v6e", 524_288, 937)])
def test_the_cost_model_counts_the_same_facts_per_cycle(name, flops, memory):
    chip = CHIPS[name]
    assert chip.flops_per_cycle == flops
    assert chip.flops_per_cycle * chip.clock_hz == pytest.approx(TPUS[name].peak_flops, rel=3e-3)
    assert chip.hbm_bytes_per_cycle == memory


def test_an_implementation_is_chosen_by_platform_while_tracing():
    @PerPlatform
    def double(x):
        """Twice x."""
        return x + x

    @double.on("tpu")
    def _(x):
        return 2 * x

    assert double.__doc__ == "Twice x."
    for platform, operation in (("cpu", "add"), ("gpu", "add"), ("tpu", "mul")):
        with tracing_for(platform):
            assert f" {operation} " in str(jax.make_jaxpr(lambda x: double(x))(jnp.ones(2)))
