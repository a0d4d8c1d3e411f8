import tomllib

from dnabert2_jax.config.loading import parse_run, run_to_dict
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.training.workdir import write_json


def test_config_show_prints_the_run_and_where_values_come_from(run_file, dnabert2):
    code, out, _ = dnabert2("config", "show", run_file, "--set", "training.epochs=7", "--set", "lora.rank=5")
    assert code == 0
    lines = {line.split(" = ")[0]: line.split("  # ")[-1].strip() for line in out.splitlines() if " = " in line}
    assert (lines["epochs"], lines["rank"]) == ("--set", "--set")
    assert (lines["command"], lines["learning_rate"], lines["train"]) == ("file", "file", "file")
    assert (lines["weight_decay"], lines["patience"], lines["alpha"]) == ("default", "default", "default")
    run = parse_run(FinetuneRun, tomllib.loads(out), "config show")
    assert (run.training.epochs, run.lora.rank, run.optimizer.learning_rate) == (7, 5, 1e-2)
    code, again, _ = dnabert2("config", "show", run_file, "--set", "lora={rank = 5, alpha = 1.0}")
    assert "alpha = 1.0" in again
    section = again.partition("[lora]")[2].partition("[mesh]")[0]
    assert {line.split("  # ")[-1] for line in section.splitlines() if line} == {"--set"}


def test_config_show_of_a_workdir(run_file, tmp_path, dnabert2, refused):
    run = parse_run(FinetuneRun, tomllib.loads(run_file.read_text()), "test")
    work = tmp_path / "work"
    work.mkdir()
    write_json(work / "run.json", run_to_dict(run))
    code, out, _ = dnabert2("config", "show", work)
    assert code == 0
    assert parse_run(FinetuneRun, tomllib.loads(out), "config show") == run
    lines = {line.split(" = ")[0]: line.split("  # ")[-1].strip() for line in out.splitlines() if " = " in line}
    assert (lines["learning_rate"], lines["train"]) == ("run", "run")
    assert (lines["command"], lines["weight_decay"], lines["beta2"], lines["alpha"]) == ("default",) * 4
    refused("config", "show", work, "--set", "seed=1", words=("whose settings are fixed",))
    code, out, _ = dnabert2("config", "diff", run_file, work)
    assert (code, out) == (0, f"{run_file} and {work} have the same settings\n")
    (work / "run.json").write_text("{")
    refused("config", "show", work, words=("run.json is damaged",))


def test_config_diff_compares_defaults_too(run_file, tmp_path, dnabert2):
    other = tmp_path / "other.toml"
    other.write_text(run_file.read_text().replace("epochs = 4", "epochs = 5") + "dropout = 0.25\n")
    code, out, _ = dnabert2("config", "diff", run_file, other)
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [["lora.dropout", "0.05", "0.25"], ["training.epochs", "4", "5"]]


def test_config_names_the_nearest_key_and_the_missing_command(run_file, tmp_path, dnabert2, refused):
    refused("config", "show", run_file, "--set", "training.epoch=7", words=("unknown key training.epoch", "'epochs'"))
    bare = tmp_path / "bare.toml"
    bare.write_text(run_file.read_text().replace('command = "finetune"', ""))
    refused("config", "show", bare, words=("no command is named in it", "--command"))
    assert dnabert2("config", "show", bare, "--command", "finetune")[0] == 0
    refused("config", "show", bare, "--command", "train", words=("'train' is unknown", "pretrain and finetune"))
    refused("config", "show", tmp_path / "absent.toml", words=("absent.toml: cannot be read",))
    refused("config", "show", tmp_path, words=("holds no run",))
    bare.write_text("seed = [")
    refused("config", "diff", run_file, bare, words=("bare.toml: not TOML",))
