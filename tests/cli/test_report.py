import tomllib

from dnabert2_jax.config.loading import parse_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.training.workdir import write_json


def test_report_writes_the_page_of_a_workdir(run_file, tmp_path, dnabert2, refused):
    work = tmp_path / "work"
    work.mkdir()
    write_json(work / "run.json", run_to_dict(parse_run(FinetuneRun, tomllib.loads(run_file.read_text()), "test")))
    (work / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "gradient_norm": 1.0, "learning_rate": 0.1}\n')
    code, out, _ = dnabert2("report", work)
    assert (code, out) == (0, f"saved {work / 'report.html'}\n")
    assert (work / "pictures" / "training_curves.png").is_file()
    assert not (work / "pictures" / "training_curves.svg").exists()
    assert dnabert2("report", work, "--format", "svg")[0] == 0
    assert (work / "pictures" / "training_curves.svg").read_text().startswith("<?xml")
    refused("report", work, "--embedding-map", words=("model does not exist",))
    refused("report", tmp_path, words=("holds no run",))
