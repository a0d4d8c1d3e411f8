"""Adapters to and from PEFT's layout."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dnabert2_jax.artifacts.adapter import SavedAdapter, merged
from dnabert2_jax.artifacts.tensors import flatten_tree
from dnabert2_jax.config.model import HeadConfig, LoraConfig
from dnabert2_jax.convert.names import to_theirs
from dnabert2_jax.convert.peft import CONFIG, WEIGHTS, load_peft, save_peft
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from tests.helpers import CLASSES, tiny_model

TARGETS = ("Wqkv", "out", "gated_layers", "wo")


def random_adapter(base, lora, seed=0) -> SavedAdapter:
    """An adapter whose B is not zero, with heads."""
    rng = np.random.default_rng(seed)
    adapter = {
        target: {name: rng.normal(size=matrix.shape, scale=0.1).astype(np.float32) for name, matrix in pair.items()}
        for target, pair in init_adapter(base.config, lora, seed).items()
    }
    heads = sequence_classifier(base.config, len(CLASSES)).init(seed)
    params = {"adapter": adapter, "pooler": heads["pooler"], "classifier": heads["classifier"]}
    return SavedAdapter(base=base, params=params, lora=lora, labels=CLASSES)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("peft") / "base")


@pytest.fixture
def written(base, tmp_path):
    return save_peft(tmp_path / "peft", random_adapter(base, LoraConfig(rank=2)))


@pytest.mark.parametrize("targets", [TARGETS, ("Wqkv",), ("wo", "out")])
def test_there_and_back_is_bitwise(base, tmp_path, targets):
    adapter = random_adapter(base, LoraConfig(rank=3, alpha=5.0, dropout=0.25, targets=targets))
    adapter = replace(adapter, head=HeadConfig(token_types=len(targets) > 1, max_tokens=100 * len(targets)))
    back = load_peft(save_peft(tmp_path / "peft", adapter), base)
    assert (back.lora.rank, back.lora.alpha, back.lora.dropout) == (3, 5.0, 0.25)
    assert set(back.lora.targets) == set(targets)
    assert back.labels == CLASSES
    assert back.head == adapter.head
    ours, theirs = flatten_tree(adapter.params), flatten_tree(back.params)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


def test_rank_stabilised_scale(base, written):
    settings = json.loads((written / CONFIG).read_text())
    (written / CONFIG).write_text(json.dumps(settings | {"use_rslora": True}))
    assert load_peft(written, base).lora.scale == pytest.approx(16 / 2**0.5, rel=1e-12)


def drop_the_pooler(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "pooler" not in name}, directory / WEIGHTS)


def test_a_frozen_pooler_comes_from_the_base(base, written):
    drop_the_pooler(written)
    with pytest.raises(UserError, match=r"holds no pooler, and neither does .*modules_to_save"):
        load_peft(written, base)
    classifier = merged(random_adapter(base, LoraConfig(rank=2), seed=5))
    back = load_peft(written, classifier)
    np.testing.assert_array_equal(back.params["pooler"]["dense"]["kernel"], classifier.params["pooler"]["dense"]["kernel"])
    assert back.labels == ("0", "1")  # the file was written anew, without this project's metadata


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', accepted is 'LORA'"),
        ({"use_dora": True}, r"unsupported: use_dora; merge the adapter with PEFT's merge_and_unload\(\)"),
        ({"bias": "all"}, "unsupported: bias=all"),
        ({"r": 3}, r"at rank 3: .*lora_A.weight has the shape \(2, 32\), expected \(3, 32\)"),
        ({"r": "two"}, "r, lora_alpha and lora_dropout must be numbers"),
    ],
)
def test_what_cannot_be_expressed_is_refused(base, written, change, says):
    settings = json.loads((written / CONFIG).read_text())
    (written / CONFIG).write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=says):
        load_peft(written, base)


def spoil(written: Path, change) -> None:
    tensors = load_file(written / WEIGHTS)
    change(tensors)
    save_file(tensors, written / WEIGHTS)


FIRST = "base_model.model.bert.encoder.layer.0.attention.self.Wqkv.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(FIRST.replace("lora_A", "lora_B")), r"layer\.0\.attention\.self\.Wqkv\.lora_B\.weight is missing"),
        (lambda t: t.update({"base_model.model.other": t[FIRST]}), r"base_model\.model\.other is unknown"),
        (lambda t: t[FIRST].fill(np.nan), "holds [0-9]+ values of [0-9]+ that are NaN or infinite; go back"),
        (lambda t: [t.pop(name) for name in list(t) if "lora_" in name], "holds no LoRA matrices of DNABERT-2"),
        (lambda t: [t.pop(name) for name in list(t) if "classifier" in name], "holds no .*classifier.weight; train with"),
    ],
    ids=["missing", "unknown", "not finite", "no matrices", "no classifier"],
)
def test_tensors_that_do_not_fit_are_refused(base, written, change, says):
    spoil(written, change)
    with pytest.raises(UserError, match=says):
        load_peft(written, base)


def test_a_damaged_file_and_a_wrong_directory(base, written, tmp_path):
    (written / WEIGHTS).write_bytes((written / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="not a valid safetensors file"):
        load_peft(written, base)
    (written / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"holds no adapter_model\.safetensors"):
        load_peft(written, base)
    with pytest.raises(UserError, match="cannot be read"):
        load_peft(tmp_path, base)
    with pytest.raises(UserError, match="exists; choose another name"):
        save_peft(written, random_adapter(base, LoraConfig(rank=2)))


PEFT_SIDE = """
import json, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

folder = sys.argv[1]
weights = load_file(f"{folder}/base.safetensors")


class Config(dict):  # what PEFT asks of a model's configuration
    model_type = "bert"
    def to_dict(self):
        return dict(self)


def skeleton():
    # The original's modules by their names; nothing is computed with them.
    model = torch.nn.Module()
    model.config = Config()
    model.prepare_inputs_for_generation = None
    for name, value in weights.items():
        *path, kind = name.split(".")
        place = model
        for part in path[:-1]:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place._modules[part]
        if value.ndim == 2 and "embeddings" not in name:
            linear = torch.nn.Linear(value.shape[1], value.shape[0], bias=".".join([*path, "bias"]) in weights)
            place.add_module(path[-1], linear)
    model.load_state_dict({k: v for k, v in weights.items() if k in model.state_dict()})
    return model


ours = PeftModel.from_pretrained(skeleton(), f"{folder}/ours").merge_and_unload()
save_file({k: v.contiguous() for k, v in ours.state_dict().items()}, f"{folder}/ours_merged.safetensors")

torch.manual_seed(1)
settings = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, lora_dropout=0.0, modules_to_save=["pooler", "classifier"],
                      target_modules=["Wqkv", "attention.output.dense", "gated_layers", "wo"], init_lora_weights=False)
theirs = get_peft_model(skeleton(), settings)
theirs.save_pretrained(f"{folder}/theirs")
merged = theirs.merge_and_unload()
save_file({k: v.contiguous() for k, v in merged.state_dict().items()}, f"{folder}/theirs_merged.safetensors")
"""


@pytest.mark.slow
def test_peft_itself_reads_ours_and_we_read_its(base, tmp_path, torch_python):
    adapter = random_adapter(base, LoraConfig(rank=2, alpha=3.0))
    classifier = merged(adapter)
    start = {**to_theirs({**classifier.params, "encoder": base.params["encoder"]}, "classifier")}
    save_file(start, tmp_path / "base.safetensors")
    save_peft(tmp_path / "ours", adapter)
    subprocess.run([torch_python, "-c", PEFT_SIDE, tmp_path], check=True, capture_output=True, text=True)
    for name, made in (("ours", adapter), ("theirs", load_peft(tmp_path / "theirs", base))):
        whole = to_theirs(merged(made).params, "classifier")
        by_peft = load_file(tmp_path / f"{name}_merged.safetensors")
        assert sum("Wqkv" in key for key in by_peft) == 4
        for key, value in by_peft.items():
            np.testing.assert_allclose(value, whole[key], rtol=0, atol=2e-6 * np.abs(whole[key]).max() + 1e-9, err_msg=key)
