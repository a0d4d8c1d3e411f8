import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.config.loading import kind_of_run, load_run, parse_run, run_to_dict, to_toml
from dnabert2_jax.config.runs import FINETUNE_OPTIMIZER, FinetuneRun, PretrainRun
from dnabert2_jax.errors import UserError
from tests.helpers import write_run

PRETRAIN = {"model": {"size": "1m", "tokenizer": "tok"}, "data": {"corpus": "corpus"}}
FINETUNE = {"model": {"path": "model"}, "data": {split: f"{split}.csv" for split in ("train", "dev", "test")}}
KINDS = {"pretrain": (PretrainRun, PRETRAIN), "finetune": (FinetuneRun, FINETUNE)}
CONFIGS = sorted(file for file in (Path(__file__).parents[2] / "configs").glob("*.toml") if file.name != "corpus.toml")

both = pytest.mark.parametrize(("kind", "content"), KINDS.values(), ids=KINDS)


def settings_of(content: dict) -> list[str]:
    """A run as --set values. JSON is TOML for strings, numbers, booleans and lists of them."""
    flat = []
    for key, value in content.items():
        if isinstance(value, dict):
            flat += [f"{key}.{name}={json.dumps(inner)}" for name, inner in value.items() if inner is not None]
        else:
            flat.append(f"{key}={json.dumps(value)}")
    return flat


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_config_of_the_repository_parses(file):
    text = file.read_text()
    commands = [name for name in KINDS if f"dnabert2 {name} --config configs/{file.name}" in text]
    assert len(commands) == 1, f"the head of {file} shows the command that runs it"
    kind = kind_of_run(commands[0], tomllib.loads(text))
    run = load_run(kind, file)
    assert parse_run(kind, run_to_dict(run), "again") == run
    for field in fields(kind):  # what the file writes is what the run holds
        for key, value in tomllib.loads(text).get(field.name, {}).items() if field.name in ("optimizer", "training") else ():
            assert getattr(getattr(run, field.name), key) == value


def test_there_are_configs():
    assert CONFIGS


@both
def test_a_run_comes_back_from_its_dict_as_json(kind, content):
    run = parse_run(kind, content, "test")
    assert parse_run(kind, json.loads(json.dumps(run_to_dict(run))), "run.json") == run


@both
def test_the_same_run_from_file_and_from_set(tmp_path, kind, content):
    run = parse_run(kind, content, "test")
    everything = run_to_dict(run)
    assert load_run(kind, None, settings_of(everything)) == run
    content = {section: value for section, value in everything.items() if isinstance(value, dict)}
    content = {section: {k: v for k, v in values.items() if v is not None} for section, values in content.items()}
    file = write_run(tmp_path / "run.toml", everything["command"], {"seed": 0, **content})
    assert load_run(kind, file) == run


@given(
    rate=st.floats(1e-9, 1e3),
    steps=st.integers(1, 2**62),
    reverse=st.booleans(),
    corpus=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1),
)
def test_set_values_arrive_unchanged(rate, steps, reverse, corpus):
    given = {"optimizer": {"learning_rate": rate}, "training": {"steps": steps}, "data": {"reverse_complement": reverse}}
    paths = [f"data.corpus={corpus}", "model.size=1m", "model.tokenizer=tok"]
    try:
        tomllib.loads(f"value = {corpus}")
        paths = []  # this text is TOML, and read as such
    except tomllib.TOMLDecodeError:
        pass
    run = load_run(PretrainRun, None, [*settings_of(PRETRAIN), *settings_of(given), *paths])
    assert run.optimizer.learning_rate == rate
    assert run.training.steps == steps
    assert run.data.reverse_complement is reverse
    assert run.data.corpus == Path(corpus if paths else "corpus")


def test_set_wins_over_the_file_and_the_last_one_over_the_first(tmp_path):
    file = write_run(tmp_path / "run.toml", "pretrain", {"seed": 3, **PRETRAIN, "training": {"steps": 10}})
    run = load_run(PretrainRun, file, ["training.steps=20", "training.steps=30", "seed=4"])
    assert (run.training.steps, run.seed) == (30, 4)
    assert run.model.size == "1m"


def test_a_value_of_several_lines_is_text_as_a_whole():
    run = load_run(PretrainRun, None, [*settings_of(PRETRAIN), "data.corpus=1\nother = 2"])
    assert run.data.corpus == Path("1\nother = 2")


def test_a_warmup_is_a_whole_number_or_a_fraction_in_the_run_file_too():
    def written(text: str) -> str:
        run = load_run(PretrainRun, CONFIGS[-1], [f"optimizer.warmup_steps={text}"])
        return json.dumps(run_to_dict(run)["optimizer"]["warmup_steps"])

    assert [written(text) for text in ("50", "3e4", "0.1", "0")] == ["50", "30000", "0.1", "0"]
    for text in ("1.5", "-1", "true"):
        with pytest.raises(UserError, match=r"optimizer\.warmup_steps"):
            written(text)


def test_a_section_given_in_part_keeps_the_commands_own_defaults():
    run = parse_run(FinetuneRun, {**FINETUNE, "optimizer": {"learning_rate": 1.0}}, "test")
    assert run.optimizer.beta2 == FINETUNE_OPTIMIZER.beta2 != PretrainRun.__dataclass_fields__["optimizer"].default.beta2
    assert run.optimizer.warmup_steps == 50


BAD = [
    ("pretrain", "training.step=5", r"unknown key training\.step \(did you mean 'steps'\?\); accepted are steps, batch"),
    ("pretrain", "trainin.steps=5", r"unknown key trainin \(did you mean 'training'\?\); accepted are command, seed, model"),
    ("pretrain", "lora.rank=2", r"unknown key lora; accepted are command, seed, model, data, masking"),
    ("finetune", "lora.rang=2", r"unknown key lora\.rang \(did you mean 'rank'\?\)"),
    ("pretrain", "training.steps=many", r"training\.steps: .*integer.*, found 'many'"),
    ("pretrain", "training.steps=0", r"training\.steps: .*greater than or equal to 1, found 0"),
    ("pretrain", "training.steps=1.5", r"training\.steps: .*integer.*, found 1\.5"),
    ("pretrain", "training.steps=true", r"training\.steps: a number is needed, found true"),
    ("pretrain", "training=5", r"training: .*found 5"),
    ("pretrain", "optimizer.learning_rate=-1", r"optimizer\.learning_rate: .*greater than 0, found -1"),
    ("pretrain", "optimizer.learning_rate=nan", r"optimizer\.learning_rate: .*found nan"),
    ("pretrain", "masking.mask_share=0.95", r"masking: mask_share 0\.95 and random_share 0\.1 add up to more than 1"),
    ("pretrain", "training.accumulate=3", r"training: batch_size 4096 is not a multiple of accumulate 3"),
    ("finetune", "training.accumulate=5", r"training: batch_size 32 is not a multiple of accumulate 5"),
    ("pretrain", "model.path=x", r"model: give either path .* or size"),
    ("pretrain", "model.precision=half", r"model\.precision: .*'bfloat16'.*found 'half'"),
    ("pretrain", "seed=-1", r"seed: .*found -1"),
    ("pretrain", "seed=4294967296", r"seed: .*less than 2147483648, found 4294967296"),
    ("finetune", "training.method=qlora", r"training\.method: .*'full', 'lora' or 'probe', found 'qlora'"),
    ("finetune", "training.selection=f1", r"training\.selection: .*'spearman' or 'loss', found 'f1'"),
    ("finetune", "training.batching=sorted", r"training\.batching: .*'by_length' or 'packed', found 'sorted'"),
    ("finetune", "training.class_weights=equal", r"training\.class_weights: .*'none' or 'balanced', found 'equal'"),
    ("finetune", "training.focal_gamma=-1", r"training\.focal_gamma: .*greater than or equal to 0, found -1"),
    ("finetune", "training.label_smoothing=1", r"training\.label_smoothing: .*less than 1, found 1"),
    ("finetune", "lora.targets=['query']", r"lora\.targets\.0: .*'Wqkv'.*found 'query'"),
    ("finetune", "lora.targets=['wo', 'wo']", r"lora: targets .* name a projection twice"),
    ("finetune", "command=pretrain", r"this is a run of `dnabert2 pretrain`, not of `dnabert2 finetune`"),
    ("pretrain", "command=finetune", r"this is a run of `dnabert2 finetune`, not of `dnabert2 pretrain`"),
]


@pytest.mark.parametrize(("command", "setting", "message"), BAD, ids=[setting for _, setting, _ in BAD])
def test_what_is_not_accepted_is_named(command, setting, message):
    kind, content = KINDS[command]
    with pytest.raises(UserError, match=message) as error:
        load_run(kind, None, [*settings_of(content), setting])
    assert "\n" not in str(error.value)


def test_everything_wrong_is_said_at_once(tmp_path):
    file = write_run(tmp_path / "run.toml", "pretrain", {"seed": 0, **PRETRAIN, "training": {"step": 5, "batch_sise": 3}})
    with pytest.raises(UserError, match=r"run\.toml: .*training\.step .*; unknown key training\.batch_sise \(did you mean"):
        load_run(PretrainRun, file)


def test_missing_keys_are_named_one_by_one():
    with pytest.raises(UserError) as error:
        load_run(FinetuneRun, None, ["data.train=train.csv"])
    for part in (
        "data.dev is missing; add it to the file or give --set data.dev=...",
        "data.test is missing",
        "model: give",
    ):
        assert part in str(error.value)
    assert "data.train" not in str(error.value)


def test_lora_from_random_weights_is_refused():
    content = {**FINETUNE, "model": {"size": "1m", "tokenizer": "tok"}, "training": {"method": "lora"}}
    with pytest.raises(UserError, match=r"training\.method lora needs model\.path"):
        parse_run(FinetuneRun, content, "test")


@pytest.mark.parametrize("setting", ["steps", "=5", " =5", "model.size.x=1"])
def test_malformed_settings_are_refused(setting):
    with pytest.raises(UserError, match="--set"):
        load_run(PretrainRun, None, [*settings_of(PRETRAIN), setting])


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.toml: cannot be read \(No such file or directory\)"):
        load_run(PretrainRun, tmp_path / "missing.toml")
    with pytest.raises(UserError, match="cannot be read"):
        load_run(PretrainRun, tmp_path)
    for name, content in (("syntax.toml", b"seed = \n"), ("latin.toml", b"# caf\xe9\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not TOML"):
            load_run(PretrainRun, tmp_path / name)


KEYS = ["command", "seed", "model", "data", "optimizer", "training", "lora", "steps", "epochs", "path", "targets", "x"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(st.dictionaries(st.sampled_from(KEYS), anything), anything, st.sampled_from(list(KINDS)))
def test_whatever_a_file_holds_it_gives_a_run_or_a_users_error(content, section, command):
    kind, valid = KINDS[command]
    for whole in (content, {**valid, "training": section}):
        try:
            run = parse_run(kind, whole, "test")
        except UserError as error:
            message = str(error)
        else:
            message = "test: " + run.command
        assert message.startswith("test: ")


def test_a_mistake_of_set_is_not_blamed_on_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[model]\npath = "m"\n[data]\ntrain = "a"\ndev = "b"\ntest = "c"\n')
    with pytest.raises(UserError, match=r"^--set: unknown key training\.max_step \(did you mean 'max_steps'"):
        load_run(FinetuneRun, file, ["training.max_step=10"])
    with pytest.raises(UserError, match=r"^--set: unknown key optimiser \(did you mean 'optimizer'"):
        load_run(FinetuneRun, file, ["optimiser.learning_rate=2"])
    with pytest.raises(
        UserError, match=r'^--set: lora\.targets: a list is needed, found .*; write lora\.targets=\["Wqkv"\]$'
    ):
        load_run(FinetuneRun, file, ["lora.targets=Wqkv"])
    with pytest.raises(UserError, match=r"found 'qkv'$"):
        load_run(FinetuneRun, file, ['lora.targets=["qkv"]'])
    file.write_text(file.read_text() + "[training]\nepoch = 2\n")
    with pytest.raises(UserError, match=r"run\.toml: .*training\.epoch"):
        load_run(FinetuneRun, file, ["training.max_step=10"])


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@given(st.dictionaries(NAMES, NAMES, max_size=3), st.floats(1e-8, 1.0))
def test_a_run_written_as_toml_is_read_as_it_was(label_map, rate):
    data = {**dict.fromkeys(("train", "dev", "test"), "a.csv"), "label_map": label_map}
    run = parse_run(FinetuneRun, {"model": {"path": "m"}, "data": data, "optimizer": {"learning_rate": rate}}, "test")
    assert parse_run(FinetuneRun, tomllib.loads(to_toml(run_to_dict(run))), "test") == run
