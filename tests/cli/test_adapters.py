from dataclasses import replace

import numpy as np
import pytest

from dnabert2_jax.artifacts.adapter import load_adapter
from dnabert2_jax.artifacts.model import load_model, save_model
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.modeling.compute import Compute
from tests.cli.conftest import make_adapter
from tests.helpers import (
    tiny_model,
    tiny_rows,
    write_table,
)


def test_merged_model_predicts_like_its_adapter(folder, tmp_path, dnabert2):
    adapter = folder / "runs" / "first" / "adapter"
    code, out, errors = dnabert2("merge", adapter, "--out", tmp_path / "merged")
    assert (code, out) == (0, f"saved {tmp_path / 'merged'}\n")
    assert "2 classes: plain, rich" in errors
    table = read_table(write_table(tmp_path / "table.csv", tiny_rows(12, seed=5)))
    first, second = (
        predict(InferenceModel.load(path, Compute()), table, max_tokens=64, long="cut").outputs
        for path in (adapter, tmp_path / "merged")
    )
    assert first == pytest.approx(second, abs=1e-4)
    assert np.ptp(first[:, 0]) > 2e-3  # the rows differ, so agreement says something
    model = load_model(tmp_path / "merged")
    assert set(model.provenance["parents"]) == {"adapter", "base"}
    assert model.provenance["metrics"] == {"dev": {"mcc": 0.5}}


def test_merge_refuses_what_is_no_adapter_and_what_it_would_overwrite(folder, tmp_path, refused):
    refused("merge", folder / "base", "--out", tmp_path / "x", words=("not an adapter directory", "adapter.json"))
    refused("merge", tmp_path / "absent", "--out", tmp_path / "x", words=("absent does not exist",))
    write_table(tmp_path / "mine" / "table.csv", tiny_rows(2, seed=0))
    adapter = folder / "runs" / "first" / "adapter"
    refused("merge", adapter, "--out", tmp_path / "mine", words=("mine exists", "choose another name", "--force"))
    refused("merge", adapter, "--out", tmp_path / "mine", "--force", words=("mine exists and is not", "choose another path"))
    assert (tmp_path / "mine" / "table.csv").is_file()


def test_merge_refuses_another_base(folder, tmp_path, refused):
    other = tiny_model(tmp_path / "other", seed=9)
    adapter = folder / "runs" / "first" / "adapter"
    words = ("trained on a base whose encoder has sha256", "name the base it was trained on")
    refused("merge", adapter, "--base", other.path, "--out", tmp_path / "x", words=words)


def test_adapters_below_a_directory_are_listed(folder, dnabert2):
    code, out, _ = dnabert2("adapters", "list", folder)
    assert code == 0
    first, second = (out.index(str(folder / "runs" / name / "adapter")) for name in ("first", "second"))
    assert first < second
    assert "rank 2, alpha 4, on Wqkv, out, gated_layers, wo" in out[:second]
    assert "rank 3" in out[second:]
    assert out.count(f"base     {folder / 'base'}") == 2
    assert out.count("2 classes: plain, rich; dev MCC 0.500") == 2


def test_a_damaged_adapter_does_not_hide_the_others(folder, tmp_path, refused):
    good = make_adapter(tmp_path / "good", load_model(folder / "base"), 3)
    bad = make_adapter(tmp_path / "bad", load_model(folder / "base"), 4)
    (bad.path / "adapter.json").write_text("{}")
    out = refused("adapters", "list", bad.path, good.path, words=("adapter.json is damaged",))
    assert "not usable" in out
    assert out.index(str(good.path)) < out.index("rank 2")


def test_adapters_list_says_where_there_are_none(folder, tmp_path, refused):
    refused("adapters", "list", tmp_path, words=("no adapter in or below it", "training.method=lora"))
    refused("adapters", "list", tmp_path / "absent", words=("absent is not a directory",))


def test_extracting_undoes_merging(folder, tmp_path, dnabert2):
    out_dir = tmp_path / "adapter"
    code, out, errors = dnabert2(
        "adapters", "extract", folder / "merged", "--base", folder / "base", "--out", out_dir, "--rank", 2
    )
    assert (code, out) == (0, f"saved {out_dir}\n")
    assert "preserves all but 0.0" in errors
    original, again = load_adapter(folder / "runs" / "first" / "adapter"), load_adapter(out_dir)
    assert again.lora.rank == 2
    for target, pair in original.params["adapter"].items():
        product = original.lora.scale * np.einsum("nir,nro->nio", pair["A"], pair["B"])
        extracted = again.params["adapter"][target]
        found = again.lora.scale * np.einsum("nir,nro->nio", extracted["A"], extracted["B"])
        assert np.abs(product).max() > 0.01
        assert found == pytest.approx(product, abs=1e-6)
    table = read_table(write_table(tmp_path / "table.csv", tiny_rows(8, seed=6)))
    scores = [
        predict(InferenceModel.load(path, Compute()), table, max_tokens=64, long="cut").outputs
        for path in (folder / "merged", out_dir)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_rank_above_the_width_is_padded(folder, tmp_path, dnabert2):
    out_dir = tmp_path / "wide"
    arguments = ("--base", folder / "base", "--out", out_dir, "--rank", 40, "--max-loss", 0.001)
    assert dnabert2("adapters", "extract", folder / "merged", *arguments)[0] == 0
    assert load_adapter(out_dir).params["adapter"]["out"]["A"].shape == (2, 32, 40)


def test_extract_refuses_to_lose_what_it_was_not_allowed_to(folder, tmp_path, dnabert2, refused):
    arguments = ("adapters", "extract", folder / "merged", "--base", folder / "base", "--out", tmp_path / "x")
    refused(*arguments, "--rank", 1, words=("rank 1", "would lose", "accepted is 1.00%", "--max-loss"))
    assert not (tmp_path / "x").exists()
    words = ("most of it in encoder.layers.", "add targets")
    refused(*arguments, "--rank", 2, "--target", "out", words=words)
    code, _, errors = dnabert2(*arguments, "--rank", 2, "--target", "out", "--max-loss", 1)
    assert code == 0
    assert "rank 2 on out preserves all but" in errors
    assert set(load_adapter(tmp_path / "x").params["adapter"]) == {"out"}


def test_extract_measures_what_no_adapter_can_hold(folder, tmp_path, refused):
    model = load_model(folder / "merged")
    embeddings = {**model.params["encoder"]["embeddings"]}
    embeddings["word"] = embeddings["word"] + 1
    encoder = {**model.params["encoder"], "embeddings": embeddings}
    save_model(tmp_path / "full", replace(model, params={**model.params, "encoder": encoder}))
    arguments = ("--base", folder / "base", "--out", tmp_path / "x")
    refused("adapters", "extract", tmp_path / "full", *arguments, words=("most of it in encoder.embeddings.word",))


def test_extract_refuses_models_that_do_not_fit(folder, tmp_path, refused):
    base, out = ("--base", folder / "base"), ("--out", tmp_path / "x")
    words = ("--target Wqk is unknown", "did you mean 'Wqkv'")
    refused("adapters", "extract", folder / "merged", *base, *out, "--target", "Wqk", words=words)
    refused("adapters", "extract", folder / "base", *base, *out, words=("is a masked_lm",))
    other = tiny_model(tmp_path / "other", num_hidden_layers=1)
    refused("adapters", "extract", folder / "merged", "--base", other.path, *out, words=("differs in size or tokenizer",))
    unchanged = replace(
        load_model(folder / "merged"),
        params={**load_model(folder / "merged").params, "encoder": load_model(folder / "base").params["encoder"]},
    )
    save_model(tmp_path / "unchanged", unchanged)
    refused("adapters", "extract", tmp_path / "unchanged", *base, *out, words=("unchanged", "no adapter to extract"))
