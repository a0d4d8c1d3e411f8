import math
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from dnabert2_jax.training.meter import Meter, memory
from dnabert2_jax.training.objectives import Sums, masked_lm_means
from dnabert2_jax.training.step import StepMetrics
from dnabert2_jax.training.workdir import MetricsLog, Workdir


def step_metrics(loss, *, weight=2.0, gradient=1.0, update=0.5, skipped=0):
    return StepMetrics(
        Sums(*map(np.float32, (loss, 1.0, weight))), np.float32(gradient), np.float32(update), np.int32(skipped)
    )


def tokens(count):
    """A batch of so many tokens."""
    return SimpleNamespace(tokens=SimpleNamespace(segment_ids=np.ones((1, count), np.int32)))


def test_means_leave_skipped_steps_out():
    meter = Meter(masked_lm_means, flops_per_token=1e6, peak=1e9)
    assert re.fullmatch(r"0 tokens/s", meter.figures)
    meter.add(1, step_metrics(4.0), tokens(100), 0.0)
    meter.add(2, step_metrics(math.nan, gradient=math.inf, update=0, skipped=1), tokens(100), 0.0)
    meter.add(3, step_metrics(8.0, weight=4, gradient=3.0), tokens(100), 0.0)
    assert re.fullmatch(r"[\d,]+ tokens/s", meter.figures)  # before the first reading
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
    meter = Meter(masked_lm_means)
    seen = []
    for step, skipped in enumerate([0, 1, 1, 1, 0, 1], start=1):
        meter.add(step, step_metrics(1.0, skipped=skipped), tokens(1), 0.0)
        seen.append(meter.skipped_in_a_row)
    assert seen == [0, 0, 0, 1, 2, 3]
    assert "mfu" not in meter.read()
    assert (meter.skipped_in_a_row, meter.last_skipped) == (1, 6)


def test_tokens_are_those_of_all_processes_and_only_of_the_interval(monkeypatch):
    clock = iter([0.0, 5.0, 7.0, 7.0, 7.0])
    monkeypatch.setattr("dnabert2_jax.training.meter.time", SimpleNamespace(monotonic=lambda: next(clock)))
    meter = Meter(masked_lm_means, processes=4)
    meter.add(1, step_metrics(1.0), tokens(1000), 3.0)
    meter.restart()
    meter.add(2, step_metrics(1.0), tokens(10), 0.5)
    values = meter.read()
    assert (values["tokens_per_second"], values["input_wait"]) == (20.0, 0.25)


def test_memory_is_that_of_this_process():
    assert 1e8 < memory()["host_memory_bytes"] < 1e12


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
