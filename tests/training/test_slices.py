"""Four processes of two devices, as hosts of two slices, take the steps of one process with eight."""

import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

from dnabert2_jax.config.sections import MeshOptions
from tests.training.test_sharded_step import assert_same_training, network, params, promotion, train  # noqa: F401

HOST = """
import pickle, sys
import jax
port, process, file, options = sys.argv[1], int(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=4, process_id=process)
from dnabert2_jax.config.sections import MeshOptions
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.parallel.processes import gather
from tests.helpers import tiny_config
from tests.training.test_sharded_step import train

network = masked_lm(tiny_config())
params = jax.device_get(network.init(0))
*trained, layout = train(network, params, MeshOptions(**options), slice_of=lambda device: device.process_index // 2)
slices = [device.process_index // 2 for device in layout.mesh.devices.flat]
trained = gather(trained)
if process == 0:
    with open(file, "wb") as results:
        pickle.dump((trained, slices, layout.stages), results)
"""


def on_four_processes(file, options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", HOST, port]
    hosts = [
        subprocess.Popen([*command, str(process), str(file), repr(options)], stderr=subprocess.PIPE, text=True)
        for process in range(4)
    ]
    try:
        for host in hosts:
            errors = host.communicate(timeout=240)[1]
            assert host.returncode == 0, errors[-3000:]
    finally:
        for host in hosts:
            host.kill()
    return pickle.loads(file.read_bytes())


@pytest.mark.slow  # four processes import jax and compile the step: half a minute on two cores
@pytest.mark.parametrize(
    ("options", "stages", "slices"),
    [
        ({"shard_optimizer": True}, (4, 2), [0, 1] * 4),  # of a scatter's two stages, the last crosses the slices
        ({"fsdp": 2, "tensor": 2, "shard_optimizer": True}, (), [0] * 4 + [1] * 4),  # only `data` crosses them
        ({"sequence": 4, "shard_optimizer": True}, (2,), [0] * 4 + [1] * 4),
    ],
    ids=["data", "all", "sequence"],
)
def test_two_slices_of_two_hosts_train_like_one_process(options, stages, slices, tmp_path, network, params):  # noqa: F811
    trained, found_slices, found_stages = on_four_processes(tmp_path / "trained", options)
    assert (found_slices, found_stages) == (slices, stages)
    together = train(network, params, MeshOptions(**options))
    assert_same_training(trained, together)
    losses = [[float(metrics.sums.loss) for metrics in measured] for measured in (trained[1], together[1])]
    np.testing.assert_allclose(*losses, rtol=1e-6)
