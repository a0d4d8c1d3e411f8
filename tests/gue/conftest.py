"""What the tests of running a benchmark share: good data sets beside every kind of bad one."""

from pathlib import Path

import jax
import pytest

from dnabert2_jax.reports.page import Pictures
from tests.gue.helpers import Trainer, crlf
from tests.helpers import tiny_model, tiny_rows, tiny_task, write_table


@pytest.fixture(scope="module")
def promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def no_pictures():
    """Pictures take seconds to draw, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnabert2_jax.reports.run.write_report", lambda *_: None)
        patch.setattr("dnabert2_jax.gue.report.draw_pictures", lambda *_: Pictures(()))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gue")
    tiny_model(path / "model")
    good = tiny_task(path / "GUE" / "tf" / "0", test=30)
    with Path(good["test"]).open("a") as file:  # one row of the training table
        file.write(Path(good["train"]).read_text().splitlines()[1] + "\n")
    tiny_task(path / "GUE" / "My promoters")
    for file in (path / "GUE" / "My promoters").iterdir():
        crlf(file.rename(file.with_name(file.name.upper())))
    bad = path / "GUE" / "mouse"
    for name, labels in {"0": "0", "1": "02", "2": ("0.5", "1.25")}.items():
        rows = [(sequence, labels[n % len(labels)]) for n, (sequence, _) in enumerate(tiny_rows(20, 5))]
        for split in ("train", "dev", "test"):
            write_table(bad / name / f"{split}.csv", rows[:1] if name == "0" else rows)
    write_table(bad / "3" / "train.csv", tiny_rows(8, 1))
    return path


@pytest.fixture
def train(monkeypatch):
    """Puts a trainer in the place of ``finetune``."""

    def put(**arguments) -> Trainer:
        trainer = Trainer(**arguments)
        monkeypatch.setattr("dnabert2_jax.gue.runner.finetune", trainer)
        return trainer

    return put
