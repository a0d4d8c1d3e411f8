"""Runs with labels at every base: which settings are accepted, and how a run is told from one on tables."""

import json

import pytest

from dnabert2_jax.config.loading import kind_of_run, load_finetuning, parse_run, run_to_dict
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.config.runs import FinetuneRun, PretrainRun
from dnabert2_jax.errors import UserError

DATA = {"task": "per_base", "fasta": "g.fa", "annotation": "a.gff3", "dev_contigs": ["chr2"], "test_contigs": ["chr3"]}
CONTENT = {"model": {"path": "model"}, "data": DATA}


def settings(**changes):
    return [
        f"model.path={json.dumps('model')}",
        *(f"data.{key}={json.dumps(value)}" for key, value in {**DATA, **changes}.items()),
    ]


def test_the_task_says_which_kind_of_run_it_is():
    assert isinstance(load_finetuning(None, settings()), PerBaseRun)
    tables = ["model.path=model", *(f"data.{split}={split}.csv" for split in ("train", "dev", "test"))]
    assert isinstance(load_finetuning(None, tables), FinetuneRun)
    assert kind_of_run("finetune", CONTENT) is PerBaseRun
    assert kind_of_run("finetune", {"data": "nonsense"}) is FinetuneRun
    assert kind_of_run("pretrain", CONTENT) is PretrainRun


def test_a_run_comes_back_from_its_dict():
    run = parse_run(PerBaseRun, CONTENT, "test")
    assert run.data.window == 2048
    assert parse_run(PerBaseRun, json.loads(json.dumps(run_to_dict(run))), "run.json") == run


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ('data.dev_contigs=["chr3"]', "chr3 is in dev_contigs and in test_contigs"),
        ("data.dev_contigs=[]", "data.dev_contigs: .* at least 1 item"),
        (
            "data.dev_contigs=chr2",
            r'data\.dev_contigs: a list is needed, found .*; write data\.dev_contigs=\["chr2"\]',
        ),
        ("data.featuers=[]", r"unknown key data\.featuers \(did you mean 'features'\?\)"),
        ("data.train=train.csv", "unknown key data.train"),
        ("data.window=10", "data.window: Input should be greater than or equal to 64, found 10"),
        ("training.batching=packed", "training.batching packed is not for data.task per_base"),
        ("training.label_smoothing=0.1", "training.label_smoothing 0.1 is not for data.task per_base"),
        ("training.selection=spearman", "training.selection spearman is for data.task regression"),
        ("mesh.fsdp=2", "mesh: fine-tuning shards rows only"),
    ],
)
def test_settings_that_do_not_fit_are_explained(override, expected):
    with pytest.raises(UserError, match=expected):
        load_finetuning(None, [*settings(), override])


def test_settings_that_exclude_each_other_are_explained():
    with pytest.raises(UserError, match="reverse_complement has no effect with stranded"):
        load_finetuning(None, settings(stranded=True, reverse_complement=True))
    several = load_finetuning(None, [*settings(overlaps="several"), "training.class_weights=balanced"])
    assert several.training.class_weights == "balanced"
    with pytest.raises(UserError, match=r"training\.method lora needs model\.path"):
        load_finetuning(None, [*settings()[1:], "model.size=1m", "model.tokenizer=tok", "training.method=lora"])


def test_the_task_is_not_one_of_tables():
    with pytest.raises(UserError, match=r"data\.task"):
        parse_run(FinetuneRun, {"model": {"path": "m"}, "data": {**DATA, "train": "a", "dev": "b", "test": "c"}}, "test")
