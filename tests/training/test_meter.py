import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from dnabert2_jax.training.meter import Meter, Profile, memory
from dnabert2_jax.training.objectives import Sums
from dnabert2_jax.training.step import StepMetrics
from dnabert2_jax.training.workdir import MetricsLog, Workdir


def step_metrics(loss, *, weight=2.0, gradient=1.0, update=0.5, skipped=0):
    return StepMetrics(
        Sums(*map(np.float32, (loss, 1.0, weight))), np.float32(gradient), np.float32(update), np.int32(skipped)
    )


def test_means_leave_skipped_steps_out():
    meter = Meter(1e6, 1e9)
    meter.add(1, step_metrics(4.0), 100, 0.0)
    meter.add(2, step_metrics(math.nan, gradient=math.inf, update=0, skipped=1), 100, 0.0)
    meter.add(3, step_metrics(8.0, weight=4, gradient=3.0), 100, 0.0)
    values = meter.read()
    assert values["loss"] == pytest.approx(2.0)
    assert values["masked_accuracy"] == pytest.approx(2 / 6)
    assert (values["gradient_norm"], values["update_norm"], values["skipped_steps"]) == (2.0, 0.5, 1)
    assert values["mfu"] == pytest.approx(values["tokens_per_second"] / 1e3)
    assert "1 steps skipped" in meter.figures
    assert meter.skipped_in_a_row == 0
    again = meter.read()
    assert "loss" not in again
    assert again["tokens_per_second"] == 0


def test_steps_skipped_in_a_row_are_counted_two_steps_later():
    meter = Meter(1.0, None)
    seen = []
    for step, skipped in enumerate([0, 1, 1, 1, 0, 1], start=1):
        meter.add(step, step_metrics(1.0, skipped=skipped), 1, 0.0)
        seen.append(meter.skipped_in_a_row)
    assert seen == [0, 0, 0, 1, 2, 3]
    assert "mfu" not in meter.read()
    assert (meter.skipped_in_a_row, meter.last_skipped) == (1, 6)


def test_memory_is_that_of_this_process():
    assert 1e8 < memory()["host_memory_bytes"] < 1e12


def test_a_profile_is_traced_where_asked_for(tmp_path):
    with Profile(tmp_path / "none", 0, 0) as none, Profile(tmp_path / "some", 3, 2) as some:
        for step in range(4, 12):
            metrics = step_metrics(float(jnp.ones(4).sum()))
            none.after(step, metrics)
            some.after(step, metrics)
    assert not (tmp_path / "none").exists()
    assert len(list((tmp_path / "some").rglob("*.xplane.pb"))) == 1


def events(directory):
    """(step, tag, value) of every scalar; a record is its length, a checksum, an event, and a checksum."""
    found = []
    for file in sorted(directory.glob("events.*")):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_the_log_writes_tensorboard_curves(tmp_path):
    workdir = Workdir(tmp_path, {"command": "pretrain"})
    with MetricsLog(workdir, 0) as log:
        log.write(1, loss=0.5, phase="train")
        log.write(2, validation_loss=0.25, validation_loss_by_species={"yeast": 0.75})
    assert events(tmp_path / "tensorboard") == [
        (1, "loss", 0.5),
        (2, "validation_loss", 0.25),
        (2, "validation_loss_by_species/yeast", 0.75),
    ]
