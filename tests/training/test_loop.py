"""What the loop does around a step, with steps that take no time."""

import math
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import ProgressBar
from dnabert2_jax.training.checkpoint import Checkpoints
from dnabert2_jax.training.goodput import Ledger
from dnabert2_jax.training.loop import LogMetrics, SaveCheckpoints, every, resume, run_steps
from dnabert2_jax.training.meter import Meter
from dnabert2_jax.training.objectives import Sums, masked_lm_means
from dnabert2_jax.training.signals import Stopped
from dnabert2_jax.training.step import StepMetrics, TrainState
from dnabert2_jax.training.workdir import MetricsLog, Workdir

BATCH = SimpleNamespace(tokens=SimpleNamespace(segment_ids=np.ones((2, 8), np.int32)))


def start(step=0):
    return TrainState(np.int32(step), {"w": np.zeros(3, np.float32)}, {})


def fake_step(skipped=frozenset()):
    """A step that counts, and is not finite where it is told so."""

    def step(state, batch):
        number = int(state.step) + 1
        bad = number in skipped
        loss = np.float32(math.nan if bad else number)
        metrics = StepMetrics(Sums(loss, np.float32(1), np.float32(1)), np.float32(1), np.float32(1), np.int32(bad))
        return TrainState(np.int32(number), {"w": state.trainable["w"] + 1}, {}), metrics

    return step


def stop_after(step=None):
    return SimpleNamespace(after=lambda now: now == step)


def take(total, callbacks=(), *, state=None, skipped=frozenset(), stop=None, ledger=None, **options):
    return run_steps(
        state or start(),
        fake_step(skipped),
        iter([BATCH] * total),
        total=total,
        stop_requests=stop_after(stop),
        callbacks=callbacks,
        ledger=ledger or Ledger(),
        **options,
    )


@contextmanager
def logging(path, total, *, lines_every=2, skipped_in_a_row=3):
    def diverged(steps, last):
        return UserError(f"{steps} skipped, up to {last}")

    with MetricsLog(Workdir(path, {}), 0) as log, ProgressBar("training", total) as bar:
        yield LogMetrics(
            meter=Meter(masked_lm_means),
            ledger=Ledger(),
            log=log,
            bar=bar,
            due=every(lines_every),
            values=lambda event: {"half": event.step / 2},
            skipped_in_a_row=skipped_in_a_row,
            diverged=diverged,
            began=0.0,
        )


def test_callbacks_see_every_step_in_order_and_which_one_is_the_last():
    seen = []
    state = take(4, [lambda e: seen.append((e.step, int(e.state.step), e.last)), lambda e: seen.append(e.stopping)])
    assert int(state.step) == 4
    assert seen == [(1, 1, False), False, (2, 2, False), False, (3, 3, False), False, (4, 4, True), False]


def test_it_starts_after_the_step_of_the_state_and_a_finished_run_takes_none():
    seen = []
    take(4, [lambda event: seen.append(event.step)], state=start(2))
    assert seen == [3, 4]
    assert int(take(4, [lambda event: seen.append(event.step)], state=start(4)).step) == 4
    assert seen == [3, 4]


def test_it_ends_early_where_it_is_told_to():
    seen = []
    state = take(9, [lambda event: seen.append(event.step)], finished=lambda: len(seen) == 3)
    assert (seen, int(state.step)) == ([1, 2, 3], 3)


def test_a_stop_is_logged_and_saved_first_and_the_run_resumes(tmp_path, capsys):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, logging(tmp_path / "run", 9) as metrics:
        saving = SaveCheckpoints(
            checkpoints=checkpoints,
            ledger=Ledger(),
            due=every(100),
            meta=lambda step: {"identity": {"a": "b"}, "noted": step},
            log=metrics.log,
        )
        with pytest.raises(Stopped) as stopped:
            take(9, [metrics, saving], stop=5)
        assert (stopped.value.code, stopped.value.step) == (0, 5)
        assert checkpoints.steps() == [5]
        state, notes = resume(checkpoints, start(), {"a": "b"}, workdir=tmp_path, total=9)
        assert (int(state.step), notes["noted"], state.trainable["w"].tolist()) == (5, 5, [5, 5, 5])
        with pytest.raises(UserError, match="a changed since this run began; use another --workdir"):
            resume(checkpoints, start(), {"a": "c"}, workdir=tmp_path, total=9)
        take(9, [metrics, saving], state=state)
        checkpoints.wait()
        assert checkpoints.steps() == [5, 9]  # after the last step without being due
    assert [line["step"] for line in MetricsLog.read(tmp_path / "run")] == [2, 4, 5, 6, 8, 9]
    assert "step 5 of 9 is saved. Run the same command to resume" in capsys.readouterr().err


def test_a_request_to_stop_after_the_last_step_changes_nothing(tmp_path):
    assert int(take(3, stop=3).step) == 3


def test_without_a_checkpoint_the_state_is_the_fresh_one(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        fresh = start()
        assert resume(checkpoints, fresh, {}, workdir=tmp_path, total=3) == (fresh, {})


def test_means_leave_skipped_steps_out_and_a_few_of_them_do_not_end_a_run(tmp_path, capsys):
    with logging(tmp_path, 6, lines_every=3) as metrics:
        take(6, [metrics], skipped={2, 4, 5})
    lines = MetricsLog.read(tmp_path)
    assert [(line["step"], line["loss"], line["skipped_steps"], line["half"]) for line in lines] == [
        (3, 2.0, 1, 1.5),
        (6, 6.0, 2, 3.0),
    ]
    assert metrics.first_step_seconds > 0
    assert "first step done after" in capsys.readouterr().err


def test_skipped_steps_in_a_row_end_it(tmp_path):
    with logging(tmp_path, 9) as metrics, pytest.raises(UserError, match="3 skipped, up to 6"):
        take(9, [metrics], skipped={1, 4, 5, 6, 7, 8})
    assert [line["step"] for line in MetricsLog.read(tmp_path)] == [2, 4, 6]


def test_scores_of_an_evaluation_are_written_and_stay_beside_the_bar(tmp_path, capsys):
    def evaluate(event):
        if event.step == 2:
            metrics.evaluated(event.step, {"dev_mcc": 0.5}, "dev MCC 0.500")

    with logging(tmp_path, 4) as metrics:
        take(4, [metrics, evaluate])
    assert [line["step"] for line in MetricsLog.read(tmp_path)] == [2, 2, 4]
    assert MetricsLog.read(tmp_path)[1] == {"step": 2, "dev_mcc": 0.5}
    assert "tokens/s  dev MCC 0.500" in capsys.readouterr().err.splitlines()[-1]


def test_training_imports_neither_plots_nor_reports_nor_scikit_learn():
    modules = sorted(path.stem for path in Path(sys.modules[run_steps.__module__].__file__).parent.glob("[a-z]*.py"))
    assert "loop" in modules
    imports = "; ".join(f"import dnabert2_jax.training.{name}" for name in modules)
    forbidden = ("matplotlib", "sklearn", "dnabert2_jax.reports", "dnabert2_jax.metrics", "dnabert2_jax.recipes")
    program = f"import sys; {imports}; print(*[name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
