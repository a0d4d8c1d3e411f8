import pytest

from dnabert2_jax.config.loading import load_run
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.gue.catalog import Task, catalog
from dnabert2_jax.gue.presets import check_overrides, preset, write_run
from dnabert2_jax.recipes.finetuning_steps import evaluation_steps

TASKS = catalog()


def test_parity_cuts_as_the_original_and_recommended_cuts_nothing():
    task = TASKS["prom/prom_core_all"]
    limits = {
        mode: preset(task, mode, longest_row=25, train_rows=47356)["data"]["max_tokens"]
        for mode in ("parity", "recommended")
    }
    assert limits == {"parity": 20, "recommended": 32}


def test_parity_reads_pairs_and_keeps_a_checkpoint_as_the_original(tmp_path):
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}
    kept = {}
    for mode in ("parity", "recommended"):
        content = preset(TASKS["EPI/K562"], mode, longest_row=2000, train_rows=10_000)
        run = write_run(tmp_path / "run.toml", content, seed=0, model={"path": str(tmp_path)}, tables=tables, overrides=())
        kept[mode] = (run.data.token_types, run.training.selection)
    assert kept == {"parity": (False, "loss"), "recommended": (True, "mcc")}


def test_published_settings_reach_the_run():
    content = preset(TASKS["virus/covid"], "parity", longest_row=280, train_rows=77669)
    assert content["optimizer"] == {"learning_rate": 3e-5, "warmup_steps": 50, "weight_decay": 0.01}
    assert content["training"]["epochs"] == 8
    assert content["training"]["batch_size"] == 32
    # 2,428 steps an epoch, an evaluation every 200
    assert content["training"]["evaluations_per_epoch"] == 12


@pytest.mark.parametrize("mode", ["parity", "recommended"])
@pytest.mark.parametrize(("name", "evaluations"), [("mouse/0", 1), ("mouse/1", 8), ("mouse/3", 1)])
def test_fixed_steps_are_kept_and_never_cut_short(tmp_path, name, evaluations, mode):
    task = TASKS[name]
    content = preset(task, mode, longest_row=30, train_rows=task.rows["train"])
    assert content["training"]["max_steps"] == 1000
    assert content["training"]["evaluations_per_epoch"] == evaluations
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}
    plan = write_run(
        tmp_path / "run.toml", content, seed=0, model={"path": str(tmp_path)}, tables=tables, overrides=()
    ).training
    steps = evaluation_steps(plan, -(-task.rows["train"] // 32))
    assert steps[-1] == 1000
    assert len(steps) <= plan.patience


def test_a_task_without_published_settings_is_not_cut_in_either_mode():
    for mode in ("parity", "recommended"):
        assert preset(Task("mine"), mode, longest_row=1001, train_rows=10)["data"]["max_tokens"] == 1008


@pytest.mark.parametrize("mode", ["parity", "recommended", "small"])
def test_every_preset_is_a_run_that_the_file_gives_again(tmp_path, mode):
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}
    for task in TASKS.values():
        file = tmp_path / "seed_7.toml"
        content = preset(task, mode, longest_row=300, train_rows=1000)
        run = write_run(
            file,
            content,
            seed=7,
            model={"path": str(tmp_path / "model")},
            tables=tables,
            overrides=("training.method=lora",),
        )
        assert load_run(FinetuneRun, file) == run
        assert (run.seed, run.data.train, run.model.path) == (7, tables["train"], tmp_path / "model")
        assert run.training.method == "lora"
        assert run.training.patience >= len(evaluation_steps(run.training, -(-1000 // run.training.batch_size)))


def test_who_asks_for_epochs_gets_them_where_steps_are_published(tmp_path):
    task = TASKS["mouse/3"]
    content = preset(task, "recommended", longest_row=300, train_rows=1000)
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}

    def steps(*overrides):
        run = write_run(tmp_path / "run.toml", content, seed=0, model={"path": "m"}, tables=tables, overrides=overrides)
        return run.training.steps(32)

    assert steps() == task.settings.max_steps == 1000
    assert steps("training.epochs=2") == 64
    assert steps("training.epochs=2", "training.max_steps=7") == 7


@pytest.mark.parametrize(("name", "rows", "steps"), [("mouse/3", 1904, 5 * 60), ("tf/0", 32378, 2000), ("mine", 100, 5 * 4)])
def test_small_encoders_learn_faster_for_five_epochs_or_2000_steps(tmp_path, name, rows, steps):
    content = preset(TASKS.get(name, Task(name)), "small", longest_row=100, train_rows=rows)
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "dev", "test")}
    run = write_run(tmp_path / "run.toml", content, seed=0, model={"path": "m"}, tables=tables, overrides=())
    assert run.training.steps(-(-rows // 32)) == steps
    assert (run.optimizer.learning_rate, run.training.pooling, run.training.selection) == (1e-3, "mean", "mcc")
    assert run.data.max_tokens == 104  # whole rows


def test_measurements_are_sent_elsewhere():
    with pytest.raises(UserError, match=r"the benchmark has classes only; for measurements .* use `dnabert2 finetune`"):
        check_overrides(("data.task=regression",), {"path": "model"})


@pytest.mark.parametrize(
    "override",
    [
        "seed=3",
        "data={}",
        "data.train=x.csv",
        "model.path=elsewhere",
        "model.tokenizer=t",
        " seed =1",
    ],
)
def test_what_the_benchmark_varies_cannot_be_overridden(override):
    with pytest.raises(UserError, match=r"gue run` sets the .* of every run"):
        check_overrides((override,), {"path": "model"})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=3", "unknown key training.epoch (did you mean 'epochs'?)"),
        ("training.epochs=many", "training.epochs: "),
        ("training", "accepted is section.key=value"),
    ],
)
def test_an_override_that_no_run_accepts_is_refused_before_the_first_run(override, said):
    with pytest.raises(UserError) as error:
        check_overrides((override,), {"path": "model"})
    assert said in str(error.value)
