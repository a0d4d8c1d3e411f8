import numpy as np
import pytest

from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.errors import UserError
from dnabert2_jax.parallel.layout import spread_rows
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.training.workdir import MetricsLog

pytestmark = pytest.mark.usefixtures("promotion", "undrawn")


@pytest.mark.slow  # test_tasks.py trains on two devices what it uses on one
@pytest.mark.parametrize("method", ["full", "lora"])
def test_devices_share_a_batch_without_changing_it(make_run, tmp_path, capsys, method):
    """Sums are added in another order, and dropout belongs to rows: an epoch's losses and gradients agree to rounding."""
    for devices in (1, 4):
        run = make_run(training={"method": method, "epochs": 1}, mesh={"data": devices})
        finetune(run, tmp_path / str(devices))
        assert f"; on {devices} of 8 devices" in capsys.readouterr().err
    (training, dev), (shared_training, shared_dev) = (MetricsLog.read(tmp_path / devices) for devices in "14")
    timings = {"tokens_per_second", "input_wait", "host_memory_bytes"}
    assert set(training) - timings >= {"step", "epoch", "loss", "accuracy", "gradient_norm", "update_norm", "learning_rate"}
    for name in set(training) - timings:
        assert shared_training[name] == pytest.approx(training[name], rel=1e-5)
    assert shared_dev == pytest.approx(dev, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        ({"data": 3}, r"3 \(data\) devices do not divide the 8 rows"),
        ({"data": 9}, r"do not divide the 8 rows"),
        ({"data": 1, "fsdp": 2}, "fine-tuning shards rows only; of this section it accepts data"),
    ],
)
def test_devices_that_cannot_share_a_batch(make_run, tmp_path, mesh, said):
    with pytest.raises(UserError, match=said):
        finetune(make_run(mesh=mesh), tmp_path / "run")


def test_a_packed_run_does_not_go_on_with_other_rows(make_run, tmp_path):
    packed = {"batching": "packed", "epochs": 1}
    finetune(make_run(training=packed, mesh={"data": 1}), tmp_path / "run")
    with pytest.raises(UserError, match=r"of packed rows\) changed since this run began; use another --workdir"):
        finetune(make_run(training={**packed, "accumulate": 2}, mesh={"data": 1}), tmp_path / "run")


@pytest.mark.parametrize(("rows", "devices"), [(8, 8), (12, 6), (7, 7), (11, 1), (1, 1)])
def test_as_many_devices_as_divide_the_rows_are_taken(rows, devices):
    layout = spread_rows(MeshOptions(), rows, {"w": np.zeros(2)})
    assert layout.mesh.size == devices
