"""Whole directories: there and back, from Python and on the command line, and every kind of broken one."""

import json
import pickle
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dnabert2_jax import DNABERT2, UserError
from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.artifacts.tensors import tree_sha256
from dnabert2_jax.config.model import EncoderConfig, HeadConfig
from dnabert2_jax.convert import hugging_face
from dnabert2_jax.convert.hugging_face import load_hugging_face, save_hugging_face
from dnabert2_jax.convert.names import from_theirs
from dnabert2_jax.doctor import check_model
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.storage.hashes import file_sha256
from dnabert2_jax.tokenizer.training import train_bpe
from tests import parity
from tests.convert.helpers import TORCH_FILES, InMemory, Payload, hf_directory, tensors, write_archive, write_legacy
from tests.genome.helpers import random_dna
from tests.helpers import tiny_config, tiny_corpus, tiny_model, tiny_tokenizer

ROWS = parity.inputs(8)["rows"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A masked language model, as people have it."""
    return hf_directory(tmp_path_factory.mktemp("sound") / "hf")


@pytest.fixture
def spoilt(sound, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(sound, tmp_path / "hf")
    return tmp_path / "hf"


def classifier(labels):
    settings = {key: value for key, value in parity.settings(8).items() if key in EncoderConfig.__dataclass_fields__}
    config = EncoderConfig(**settings)
    params = from_theirs(InMemory(tensors("classifier")), config, "classifier", len(labels), Path("weights"))
    return SavedModel(kind="classifier", config=config, params=params, tokenizer=tiny_tokenizer(), labels=labels)


def assert_same(found, expected):
    assert (found.kind, found.config, found.labels) == (expected.kind, expected.config, expected.labels)
    assert found.tokenizer.sha256 == expected.tokenizer.sha256
    assert tree_sha256(found.params) == tree_sha256(expected.params)


def test_there_and_back_on_the_command_line(tmp_path, dnabert2):
    ours = tiny_model(tmp_path / "model")
    code, out, _ = dnabert2("convert", "to-hf", tmp_path / "model", tmp_path / "hf")
    assert (code, out) == (0, f"saved {tmp_path / 'hf'}\n")
    written = sorted(path.name for path in (tmp_path / "hf").iterdir())
    assert written == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    code, out, remarks = dnabert2("convert", "from-hf", tmp_path / "hf", tmp_path / "back")
    assert (code, out) == (0, f"saved {tmp_path / 'back'}\n")
    assert "a masked_lm; " in remarks
    back = load_model(tmp_path / "back")
    assert_same(back, ours)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert back.provenance["command"][:3] == ["dnabert2", "convert", "from-hf"]
    assert back.provenance["parents"] == {"model.safetensors": file_sha256(tmp_path / "hf" / "model.safetensors")}


@pytest.mark.parametrize("labels", [parity.LABELS, ("0", "1", "2"), ("5'", "µ", "a b")], ids=str)
def test_classifiers_carry_head_and_labels(tmp_path, labels):
    ours = classifier(labels)
    save_hugging_face(tmp_path / "hf", ours)
    back = load_hugging_face(tmp_path / "hf")
    assert_same(back, ours)
    save_model(tmp_path / "back", back)
    assert_same(load_model(tmp_path / "back"), ours)


def test_labels_without_names_are_class_numbers(tmp_path):
    assert load_hugging_face(hf_directory(tmp_path / "hf", "classifier")).labels == ("0", "1", "2")


def test_the_file_that_is_written_is_torchs(tmp_path):
    save_hugging_face(tmp_path / "hf", tiny_model(tmp_path / "model"))
    content = (tmp_path / "hf" / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}
    assert "cls.predictions.decoder.weight" not in header
    assert header["bert.encoder.layer.1.attention.self.Wqkv.weight"]["shape"] == [96, 32]


def test_from_hf_in_one_line(sound):
    model = DNABERT2.from_hf(sound)
    expected, real = np.load(parity.CASES / "heads8.npz")["rows/hidden"], ROWS["attention_mask"] == 1
    found = model.hidden_states(ROWS["input_ids"], ROWS["attention_mask"])
    assert found.dtype == np.float32
    assert np.abs(found - expected)[real].max() <= 2e-5 * np.abs(expected[real]).max()
    assert (found[~real] == 0).all()
    assert (model.kind, model.labels, model.config.num_attention_heads) == ("masked_lm", (), 8)
    assert model.tokenizer.sha256 == tiny_tokenizer().sha256


def test_arrays_of_other_shapes_and_values(sound):
    model = DNABERT2.from_hf(sound)
    ids = ROWS["input_ids"]
    for arguments, message in (
        ((ids[0],), r"input_ids has the shape \(20,\); accepted is \[batch, tokens\]"),
        ((ids[:0],), r"input_ids has the shape \(0, 20\)"),
        ((ids + 60,), r"input_ids holds \d+; accepted are integers from 0 to 63"),
        ((ids - 2,), "input_ids holds -1; accepted are integers from 0 to 63"),
        ((ids * 1.0,), "input_ids holds float64; accepted are integers"),
        ((ids, ids[:2] * 0), r"attention_mask has the shape \(2, 20\), input_ids \(3, 20\)"),
        ((ids, ids), r"attention_mask holds \d+; accepted are integers from 0 to 1"),
        ((ids, None, ids * 0 + 2), "token_type_ids holds 2; accepted are integers from 0 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            model.hidden_states(*arguments)
    for method in (model.pooled, model.class_logits):
        with pytest.raises(UserError, match=r"is a masked_lm; .* needs a classifier: train one"):
            method(ids)


def test_a_classifier_has_no_mlm_head(tmp_path):
    model = DNABERT2.from_hf(hf_directory(tmp_path / "hf", "classifier"))
    assert (model.kind, model.labels) == ("classifier", ("0", "1", "2"))
    with pytest.raises(UserError, match="is a classifier; an MLM head needs a masked_lm"):
        model.mlm_logits(ROWS["input_ids"])


def test_mask_and_types_are_used(sound):
    model = DNABERT2.from_hf(sound)
    ids = ROWS["input_ids"]
    plain = model.hidden_states(ids.tolist())
    np.testing.assert_array_equal(plain, model.hidden_states(ids, np.ones_like(ids), np.zeros_like(ids)))
    np.testing.assert_array_equal(plain, model.hidden_states(ids, np.ones(ids.shape, bool)))
    assert np.abs(plain - model.hidden_states(ids, None, np.ones_like(ids))).max() > 0.01
    masked = model.hidden_states(ids, ROWS["attention_mask"])
    assert np.abs((plain - masked)[1, :13]).max() > 0.01


def without(name):
    return lambda path: (path / name).unlink()


def write(name, content):
    return lambda path: (path / name).write_bytes(content)


def changed_settings(**changes):
    def change(path):
        content = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(content | changes))

    return change


def changed_tensor(name, change):
    def spoil(path):
        held = load_file(path / "model.safetensors")
        held[name] = change(held[name])
        save_file(held, path / "model.safetensors")

    return spoil


def not_a_number(tensor):
    tensor = tensor.copy()
    tensor.flat[3] = np.nan
    return tensor


def instead(make):
    """Weights as a pickle in place of model.safetensors."""

    def spoil(path):
        (path / "model.safetensors").unlink()
        make(path / "pytorch_model.bin")

    return spoil


def cut(path):
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


BROKEN = {
    "code": (
        instead(lambda file: write_archive(file, pickle.dumps({"w": Payload(file.parent / "made")}, 2))),
        "pytorch_model.bin: archive/data.pkl: asks for posix.mkdir, ",
    ),
    "code_in_the_older_format": (
        instead(lambda file: write_legacy(file, pickle.dumps({"w": Payload(file.parent / "made")}, 2))),
        "pytorch_model.bin: asks for posix.mkdir, ",
    ),
    "name_out_of_the_archive": (
        instead(lambda file: write_archive(file, pickle.dumps({}, 2), [("../made", b"x")])),
        "member '../made' of the archive has a name that leads out of the archive",
    ),
    "truncated": (cut, "model.safetensors: not a valid safetensors file"),
    "weights_of_something_else": (
        instead(lambda file: shutil.copy(TORCH_FILES / "archive.bin", file)),
        "holds neither the tensors of an MLM head",
    ),
    "no_weights": (without("model.safetensors"), "holds no weights; accepted are model.safetensors"),
    "no_settings": (without("config.json"), "config.json: cannot be read"),
    "no_tokenizer": (without("tokenizer.json"), "holds no tokenizer.json; copy the one the model was trained with"),
    "damaged_tokenizer": (write("tokenizer.json", b"{}"), "tokenizer.json"),
    "another_vocabulary": (
        lambda path: train_bpe([random_dna(20_000, 1)], vocab_size=65).save_hugging_face(path),
        "tokenizer.json: has 65 pieces, but config.json has vocab_size 64",
    ),
    "sizes_that_disagree": (
        changed_settings(hidden_size=40),
        "bert.embeddings.word_embeddings.weight has the shape (64, 32), expected (64, 40)",
    ),
    "layers_that_disagree": (
        changed_settings(num_hidden_layers=3),
        "holds 2 layers, but config.json has num_hidden_layers 3",
    ),
    "not_a_number": (
        changed_tensor("cls.predictions.transform.dense.weight", not_a_number),
        "cls.predictions.transform.dense.weight holds 1 values of 1024 that are NaN or infinite",
    ),
    "another_architecture": (changed_settings(model_type="esm"), "model_type is 'esm', but DNABERT-2 has 'bert'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_directories_are_refused_in_one_line(spoilt, dnabert2, tmp_path, name):
    spoil, message = BROKEN[name]
    spoil(spoilt)
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = dnabert2("convert", "from-hf", spoilt, tmp_path / "out")
    assert (code, out) == (2, "")
    assert errors.startswith("dnabert2: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written, and nothing was run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 2}, "has 2 labels, but classifier.weight has the shape"),
        ({"id2label": {"0": "a", "1": "b"}}, "has 2 labels, but classifier.weight has the shape"),
        ({"problem_type": "regression"}, "classifier.weight has the shape .*; a regression needs one output"),
    ],
)
def test_classifiers_of_other_kinds(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_hugging_face(hf_directory(tmp_path / "hf", "classifier", **changes))


def test_a_head_of_one_output_is_a_regression_unless_it_says_otherwise(tmp_path):
    one = {name: tensor[:1] if name.startswith("classifier.") else tensor for name, tensor in tensors("classifier").items()}
    model = load_hugging_face(hf_directory(tmp_path / "hf", weights=one))
    assert (model.head.task, model.labels) == ("regression", ("value",))
    for problem in ("single_label_classification", "multi_label_classification"):
        with pytest.raises(UserError, match=r"classifier\.weight has the shape \(1, 32\); a classifier needs at least two"):
            load_hugging_face(hf_directory(tmp_path / problem, weights=one, problem_type=problem))


def test_directories_in_the_wrong_place(sound, tmp_path, dnabert2):
    tiny_model(tmp_path / "model")
    corpus = tiny_corpus(tmp_path).path
    for words, message in (
        (("from-hf", corpus, tmp_path / "out"), f"{corpus / 'config.json'}"),
        (("from-hf", tmp_path / "none", tmp_path / "out"), "is not a directory; name the one with config.json"),
        (("from-hf", tmp_path / "model", tmp_path / "out"), "is already a model directory of dnabert2_jax"),
        (("from-hf", sound, sound), "exists; choose another name, or replace it with --force"),
        (("from-hf", sound, sound, "--force"), "exists and is not the directory of a model"),
        (("to-hf", tmp_path / "none", tmp_path / "out"), "does not exist; name the directory of a model"),
        (("to-hf", tmp_path / "model", sound), "exists; choose another name, or replace it with --force"),
    ):
        code, _, errors = dnabert2("convert", *words)
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model = tiny_model(tmp_path / "model")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hugging_face, "write_json", full)
    with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
        save_hugging_face(tmp_path / "hf", model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_doctor_reads_both_layouts(sound, spoilt):
    findings = dict(check_model(sound))
    assert findings["released weights"] == "not compared, there is no pytorch_model.bin"
    assert findings["tensors and finite weights"].endswith("a masked_lm")
    assert findings["blocked attention"].startswith("ok, largest difference from the reference ")
    shutil.copy(TORCH_FILES / "archive.bin", spoilt / "pytorch_model.bin")
    checks = check_model(spoilt)
    assert "so it is another model or damaged: the released DNABERT-2-117M has 468,354,983 bytes" in next(checks)[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
def test_an_independent_implementation_reads_ours(tmp_path, torch_python, kind):
    """12 heads, so that slopes are no powers of two; the tool demands that every tensor fits."""
    config = EncoderConfig(**{**tiny_config().to_dict(), "hidden_size": 48, "num_attention_heads": 12})
    network = masked_lm(config) if kind == "masked_lm" else sequence_classifier(config, 3)
    model = SavedModel(
        kind=kind,
        config=config,
        params=network.init(5),
        tokenizer=tiny_tokenizer(),
        labels=parity.LABELS if kind == "classifier" else (),
    )
    save_hugging_face(tmp_path / "hf", model)
    inputs = {name: array for name, array in parity.inputs(12)["rows"].items() if name != "labels"}
    np.savez(tmp_path / "inputs.npz", **inputs)
    tool = parity.CASES.parents[1] / "tools" / "reference_model.py"
    command = [torch_python, tool, tmp_path / "hf", tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    theirs = np.load(tmp_path / "outputs.npz")
    ours = DNABERT2.from_hf(tmp_path / "hf")
    methods = {"hidden": ours.hidden_states, "mlm_logits": ours.mlm_logits, "pooled": ours.pooled}
    methods["class_logits"] = ours.class_logits
    assert set(theirs) == ({"hidden", "mlm_logits"} if kind == "masked_lm" else {"hidden", "pooled", "class_logits"})
    for name in theirs:
        found, expected = methods[name](**inputs), theirs[name]
        if expected.ndim == 3:
            real = inputs["attention_mask"] == 1
            found, expected = found[real], expected[real]
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max(), name


@pytest.mark.parametrize("token_types", [True, False])
def test_token_types_of_pairs_come_back(tmp_path, token_types):
    base = tiny_model(tmp_path / "base")
    params = sequence_classifier(base.config, 2).init(0)
    head = HeadConfig(token_types=token_types)
    model = replace(base, kind="classifier", params=params, labels=("no", "yes"), head=head)
    assert load_hugging_face(save_hugging_face(tmp_path / "hf", model)).head == head
