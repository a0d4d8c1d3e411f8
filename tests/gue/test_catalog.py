import csv
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from dnabert2_jax.gue.catalog import SPLITS, FinetuneSettings, catalog, identify, published_models

GUE = [task for task in catalog().values() if task.suite == "GUE"]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_28_data_sets_in_their_groups_and_8_of_gue_plus():
    groups = [task.name.split("/")[0] for task in GUE]
    assert {group: groups.count(group) for group in groups} == {
        "EMP": 10,
        "mouse": 5,
        "prom": 6,
        "splice": 1,
        "tf": 5,
        "virus": 1,
    }
    assert [task.name.split("/")[0] for task in catalog().values() if task.suite == "GUE+"] == ["EPI"] * 6 + ["species"] * 2


def test_every_data_set_of_gue_has_sizes_settings_and_ten_scores():
    for task in GUE:
        assert set(task.rows) == set(SPLITS)
        assert list(task.published) == published_models()
        assert task.settings.max_tokens is not None
    assert len(published_models()) == 10
    assert [task.name for task in GUE if task.metric == "macro_f1"] == ["virus/covid"]


@pytest.mark.parametrize("length", ["core", "300"])
@pytest.mark.parametrize("split", SPLITS)
def test_promoters_of_both_kinds_are_all_promoters(length, split):
    tasks = catalog()
    parts = [tasks[f"prom/prom_{length}_{kind}"].rows[split] for kind in ("tata", "notata")]
    assert sum(parts) == tasks[f"prom/prom_{length}_all"].rows[split]


def test_facts_are_those_that_were_gathered(shared_dir):
    scores = {(row["dataset"], row["model"]): row for row in rows(shared_dir / "facts" / "gue_published.csv")}
    shipped = {(task.name, model): (task.metric, score) for task in GUE for model, score in task.published.items()}
    metrics = {"mcc": "mcc", "f1": "macro_f1"}
    assert shipped == {key: (metrics[row["metric"]], float(row["score_x100"])) for key, row in scores.items()}
    settings = rows(shared_dir / "facts" / "gue_finetune.csv")
    for task in GUE:
        [row] = [row for row in settings if fnmatchcase(task.name, row["dataset"])]
        steps = int(row["max_steps"]) if row["max_steps"] else None
        wanted = FinetuneSettings(
            max_tokens=int(row["max_length"]),
            epochs=int(row["epochs"]),
            max_steps=steps,
            batch_size=int(row["batch_size"]),
            learning_rate=float(row["learning_rate"]),
            warmup_steps=int(row["warmup_steps"]),
            weight_decay=float(row["weight_decay"]),
            evaluate_every=task.settings.evaluate_every,
        )
        assert task.settings == wanted


def test_sizes_are_those_of_the_real_tables(shared_dir):
    real = sorted((shared_dir / "data" / "GUE").glob("*/*/train.csv"))
    assert len(real) == 5
    for file in real:
        task = identify(file.parent)
        assert task.rows == {split: len(rows(file.with_name(f"{split}.csv"))) for split in SPLITS}


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("GUE/EMP/H3", "EMP/H3"),
        ("GUE/emp_H3K4me1", "EMP/H3K4me1"),
        ("anything/H3K4me1", "EMP/H3K4me1"),
        ("GUE/tf/0", "tf/0"),
        ("human_tf_0", "tf/0"),
        ("somewhere/tf4", "tf/4"),
        ("GUE/mouse/0", "mouse/0"),
        ("mouse_3", "mouse/3"),
        ("GUE/Prom/prom-core-all", "prom/prom_core_all"),
        ("prom_core/prom_core_notata", "prom/prom_core_notata"),
        ("prom_prom_300_tata", "prom/prom_300_tata"),
        ("splice/reconstructed", "splice/reconstructed"),
        ("splice_reconstructed", "splice/reconstructed"),
        ("virus_covid", "virus/covid"),
        ("EPI/HeLa-S3", "EPI/HeLa-S3"),
        ("EPI_K562", "EPI/K562"),
        ("GUE_plus/fungi_species_20", "species/fungi"),
        ("virus_species_40", "species/virus"),
    ],
)
def test_names_that_circulate(directory, name, tmp_path):
    assert identify(tmp_path / directory).name == name


@pytest.mark.parametrize("directory", ["other/0", "5", "prom", "virus", "H5", "tf/5"])
def test_other_names_are_no_data_set(directory, tmp_path):
    assert identify(tmp_path / directory) is None
