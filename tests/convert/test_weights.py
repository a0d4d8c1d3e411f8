"""Weights in the forms in which they lie in a directory."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import save, save_file

from dnabert2_jax.convert.weights import FORMS, open_safetensors, open_weights
from dnabert2_jax.errors import UserError
from tests.convert.helpers import TORCH_FILES, mutations

TENSORS = {"first": np.arange(6, dtype=np.float32).reshape(2, 3), "second": np.ones(2, np.float16)}


def read_all(directory):
    reader, files = open_weights(directory)
    return {name: reader.read(name) for name in reader.shapes}, [file.name for file in files]


def sharded(directory, suffix="safetensors"):
    form = f"model.{suffix}.index.json" if suffix == "safetensors" else "pytorch_model.bin.index.json"
    shards = {"first": f"model-00001-of-00002.{suffix}", "second": f"model-00002-of-00002.{suffix}"}
    for name, file in shards.items():
        save_file({name: TENSORS[name]}, directory / file)
    (directory / form).write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": shards}))
    return directory / form


def test_safetensors_come_first(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes((TORCH_FILES / "legacy.bin").read_bytes())
    found, files = read_all(tmp_path)
    assert ("numbers" in found, files) == (True, ["pytorch_model.bin"])
    save_file(TENSORS, tmp_path / "model.safetensors")
    found, files = read_all(tmp_path)
    assert files == ["model.safetensors"]
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_parts_with_an_index(tmp_path):
    sharded(tmp_path)
    found, files = read_all(tmp_path)
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert list(found) == list(TENSORS)
    np.testing.assert_array_equal(found["first"], TENSORS["first"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["weight_map"].update(third=index["weight_map"]["first"]), "tensor third is missing, but"),
        (lambda index: index["weight_map"].pop("second"), None),
        (lambda index: index["weight_map"].update(second="model-00001-of-00002.safetensors"), "tensor second is missing"),
        (lambda index: index["weight_map"].update(second="gone.safetensors"), r"gone\.safetensors: cannot be read"),
        (lambda index: index["weight_map"].update(second="../second.safetensors"), "names files outside its directory"),
        (lambda index: index["weight_map"].update(second="/etc/passwd"), "names files outside its directory"),
        (lambda index: index["weight_map"].update(second="a\0b"), "names files outside its directory"),
        (lambda index: index["weight_map"].update(second=3), "names files outside its directory"),
        (lambda index: index.pop("weight_map"), "not an index of weights"),
    ],
)
def test_damaged_indices(tmp_path, change, message):
    path = sharded(tmp_path)
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    if message is None:  # a file that no tensor of the index is in
        assert list(read_all(tmp_path)[0]) == ["first"]
        return
    with pytest.raises(UserError, match=message):
        open_weights(tmp_path)


def test_tensors_that_the_index_leaves_out(tmp_path):
    path = sharded(tmp_path)
    save_file(TENSORS, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="lists 2 tensors, but its files hold 3"):
        open_weights(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="not an index of weights"):
        open_weights(tmp_path)


def test_no_weights_and_pointers_to_some(tmp_path):
    with pytest.raises(UserError, match=r"holds no weights; accepted are model\.safetensors, "):
        open_weights(tmp_path)
    for form in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / form).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:7ff3\nsize 468354983\n")
        with pytest.raises(UserError, match="a Git LFS pointer, not the weights; get them with `git lfs pull`"):
            open_weights(tmp_path)
        (tmp_path / form).unlink()
    assert len(FORMS) == 4


def test_an_empty_file_of_tensors(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="holds no tensors"):
        open_weights(tmp_path)


def test_truncated_safetensors(tmp_path):
    content = save(TENSORS)
    for end in range(len(content)):
        (tmp_path / "model.safetensors").write_bytes(content[:end])
        with pytest.raises(UserError, match=r"model\.safetensors: "):
            read_all(tmp_path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations(save(TENSORS, {"format": "pt"})))
def test_fuzzed_safetensors(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = str(path)
    try:
        reader = open_safetensors(path)
        for name in reader.shapes:
            assert reader.read(name).nbytes <= len(content)
    except UserError as error:
        message = str(error)
    assert str(path) in message
