import sys
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp

from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.kernels.attention import BACKENDS
from dnabert2_jax.kernels.attention.api import Backend
from dnabert2_jax.kernels.attention.reference import reference_attention


def test_doctor_says_what_runs_where(dnabert2, refused, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    monkeypatch.setenv("HF_TOKEN", "a secret")
    code, out, _ = dnabert2("doctor")
    assert code == 0
    assert out.startswith(f"versions   python {sys.version.split()[0]}")
    assert "cpu" in out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.5" in lines["settings"].split("  ")
    assert f"pandas {version('pandas')}" in lines["optional"].split("  ")
    assert "secret" not in out  # the block is pasted into reports
    assert str(Path.home()) not in out
    attention = [line.removeprefix("attention ").strip() for line in out.splitlines() if line.startswith("attention ")]
    assert attention == [
        *("128 tokens: reference", "512 tokens: reference", "8,192 tokens: blocked"),
        "not pallas_tpu: it runs on TPUs, and this is a cpu",
        "not mosaic_gpu: it runs on NVIDIA GPUs, and this is a cpu",
        "not pallas_gpu: it runs on NVIDIA GPUs, and this is a cpu",
        "not reference: 8192 tokens are over 512",
        "not chunked: 'blocked' is faster on a CPU",
    ]
    refused("doctor", "--base", "x", words=("--base belongs to an adapter",))


def test_doctor_checks_a_model_and_an_adapter(folder, dnabert2):
    for path, kind in ((folder / "merged", "a classifier"), (folder / "runs" / "first" / "adapter", "an adapter on")):
        code, out, _ = dnabert2("doctor", "--model", path)
        assert code == 0
        assert kind in out
        difference = float(out.partition("blocked attention: ok, largest difference from the reference ")[2].split()[0])
        assert 0 < difference < 1e-4


def test_doctor_finds_damage(folder, tmp_path, refused):
    base = load_model(folder / "base")
    model = save_model(tmp_path / "model", base)
    file = model.path / "model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-7] ^= 1
    file.write_bytes(damaged)
    refused("doctor", "--model", model.path, words=("model.safetensors is damaged",))


def test_doctor_finds_a_backend_that_is_wrong_and_passes_over_one_that_cannot_run(folder, dnabert2, refused, monkeypatch):
    from dnabert2_jax.errors import UserError

    def elsewhere(*arguments, **options):
        raise UserError("needs an accelerator")

    monkeypatch.setitem(BACKENDS, "elsewhere", Backend("elsewhere", "bhtd", elsewhere))
    code, out, _ = dnabert2("doctor", "--model", folder / "base")
    assert code == 0
    assert "elsewhere attention: not tried: needs an accelerator" in out

    def wrong(inputs, **options):
        return reference_attention(inputs._replace(slopes=jnp.zeros_like(inputs.slopes)), **options)

    monkeypatch.setitem(BACKENDS, "wrong", Backend("wrong", "bhtd", wrong))
    refused("doctor", "--model", folder / "base", words=("wrong attention differs from the reference",))
