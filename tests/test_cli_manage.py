import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer

from dnabert2_jax.artifacts.adapter import SavedAdapter, load_adapter, merged, save_adapter
from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.artifacts.provenance import make_provenance
from dnabert2_jax.cli import app, main
from dnabert2_jax.config.loading import parse_run, run_to_dict
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.config.runs import FinetuneRun
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.kernels.attention import BACKENDS
from dnabert2_jax.kernels.attention.api import Backend
from dnabert2_jax.kernels.attention.reference import reference_attention
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.training.workdir import write_json
from tests.genome.helpers import write_fasta
from tests.helpers import (
    CLASSES,
    finetune_content,
    tiny_config,
    tiny_corpus,
    tiny_model,
    tiny_rows,
    tiny_tokenizer,
    write_run,
    write_table,
)

COMMANDS = [
    ("merge",),
    ("adapters", "list"),
    ("adapters", "extract"),
    ("config", "show"),
    ("config", "diff"),
    ("doctor",),
    ("report",),
    ("tokenizer", "encode"),
    ("tokenizer", "info"),
    ("corpus", "info"),
]


@pytest.fixture
def dnabert2(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dnabert2", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        return ended.value.code or 0, out, errors

    return run


@pytest.fixture
def refused(dnabert2):
    """Runs a command that must end with exit code 2 and one line that holds some words; returns what it printed before."""

    def run(*arguments: object, words: tuple[str, ...]) -> str:
        code, out, errors = dnabert2(*arguments)
        message = errors.splitlines()[-1]
        assert code == 2
        assert message.startswith("dnabert2: ")
        for word in words:
            assert word in message
        return out

    return run


def make_adapter(path: Path, base: SavedModel, seed: int, rank: int = 2) -> SavedAdapter:
    """An adapter with random matrices, B included, and random heads."""
    lora = LoraConfig(rank=rank, alpha=4.0, dropout=0.0)
    adapter = init_adapter(base.config, lora, seed)
    rng = np.random.default_rng(seed)
    for pair in adapter.values():
        pair["B"] = rng.normal(size=pair["B"].shape, scale=0.05).astype(np.float32)
    # Weights as large as trained ones, so that rows differ.
    heads = jax.tree.map(lambda x: 20 * np.asarray(x), sequence_classifier(base.config, len(CLASSES)).init(seed))
    params = {"adapter": adapter, "pooler": heads["pooler"], "classifier": heads["classifier"]}
    provenance = make_provenance(["test"], run_config={"seed": seed}, parents={}, metrics={"dev": {"mcc": 0.5}})
    return save_adapter(path, SavedAdapter(base=base, params=params, lora=lora, labels=CLASSES, provenance=provenance))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base with two adapters, and one of them merged."""
    folder = tmp_path_factory.mktemp("manage")
    base = tiny_model(folder / "base")
    adapter = make_adapter(folder / "runs" / "first" / "adapter", base, 1)
    make_adapter(folder / "runs" / "second" / "adapter", base, 2, rank=3)
    save_model(folder / "merged", merged(adapter))
    return folder


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_an_example_that_parses(path, dnabert2):
    code, out, _ = dnabert2(*path, "--help")
    assert code == 0
    assert "Example: dnabert2 " + " ".join(path) in " ".join(out.split())
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    words = command.epilog.partition("Example: dnabert2 ")[2].partition(";")[0].split()
    assert words[: len(path)] == list(path)
    command.make_context(path[-1], words[len(path) :])


# --- merge


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
    refused("merge", adapter, "--out", tmp_path / "mine", words=("mine exists", "choose another path"))
    assert (tmp_path / "mine" / "table.csv").is_file()


def test_merge_refuses_another_base(folder, tmp_path, refused):
    other = tiny_model(tmp_path / "other", seed=9)
    adapter = folder / "runs" / "first" / "adapter"
    words = ("trained on a base whose encoder has sha256", "name the base it was trained on")
    refused("merge", adapter, "--base", other.path, "--out", tmp_path / "x", words=words)


# --- adapters


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
    assert "keeps all but 0.0" in errors
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
    assert "rank 2 on out keeps all but" in errors
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
    refused(
        "adapters", "extract", folder / "merged", "--base", other.path, *out, words=("other sizes or another tokenizer",)
    )
    unchanged = replace(
        load_model(folder / "merged"),
        params={**load_model(folder / "merged").params, "encoder": load_model(folder / "base").params["encoder"]},
    )
    save_model(tmp_path / "unchanged", unchanged)
    refused("adapters", "extract", tmp_path / "unchanged", *base, *out, words=("unchanged", "no adapter to take out"))


# --- config


@pytest.fixture
def run_file(tmp_path) -> Path:
    data = {split: f"{split}.csv" for split in ("train", "dev", "test")}
    return write_run(tmp_path / "run.toml", "finetune", finetune_content(Path("base"), data))


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


# --- doctor


def test_doctor_says_what_runs_where(dnabert2, refused):
    code, out, _ = dnabert2("doctor")
    assert code == 0
    assert out.startswith(f"versions   python {sys.version.split()[0]}")
    assert "cpu" in out
    assert "128 tokens: reference (pallas_tpu does not serve: it runs on TPUs, and this is a cpu" in out
    assert "8,192 tokens: blocked (" in out
    assert "; reference does not serve: 8192 tokens are over 512)" in out
    refused("doctor", "--base", "x", words=("--base belongs to an adapter",))


def test_doctor_checks_a_model_and_an_adapter(folder, dnabert2):
    for path, kind in ((folder / "merged", "a classifier"), (folder / "runs" / "first" / "adapter", "an adapter on")):
        code, out, _ = dnabert2("doctor", "--model", path)
        assert code == 0
        assert kind in out
        difference = float(out.partition("blocked attention: ok, largest difference from the reference ")[2].split()[0])
        assert 0 < difference < 1e-4


def test_doctor_finds_damage(folder, tmp_path, refused):
    base = load_model(folder / "base")
    model = save_model(tmp_path / "model", base)
    file = model.path / "model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-7] ^= 1
    file.write_bytes(damaged)
    refused("doctor", "--model", model.path, words=("model.safetensors is damaged",))


def test_doctor_finds_a_backend_that_is_wrong_and_passes_over_one_that_cannot_run(folder, dnabert2, refused, monkeypatch):
    from dnabert2_jax.errors import UserError

    def elsewhere(*arguments, **options):
        raise UserError("needs an accelerator")

    monkeypatch.setitem(BACKENDS, "elsewhere", Backend("elsewhere", "bhtd", elsewhere))
    code, out, _ = dnabert2("doctor", "--model", folder / "base")
    assert code == 0
    assert "elsewhere attention: not tried: needs an accelerator" in out

    def wrong(q, k, v, slopes, segment_ids, **options):
        return reference_attention(q, k, v, jnp.zeros_like(slopes), segment_ids, **options)

    monkeypatch.setitem(BACKENDS, "wrong", Backend("wrong", "bhtd", wrong))
    refused("doctor", "--model", folder / "base", words=("wrong attention differs from the reference",))


# --- report


def test_report_writes_the_page_of_a_workdir(run_file, tmp_path, dnabert2, refused):
    work = tmp_path / "work"
    work.mkdir()
    write_json(work / "run.json", run_to_dict(parse_run(FinetuneRun, tomllib.loads(run_file.read_text()), "test")))
    (work / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "gradient_norm": 1.0, "learning_rate": 0.1}\n')
    code, out, _ = dnabert2("report", work)
    assert (code, out) == (0, f"saved {work / 'report.html'}\n")
    assert (work / "pictures" / "training_curves.png").is_file()
    refused("report", work, "--embedding-map", words=("model does not exist",))
    refused("report", tmp_path, words=("holds no run",))


# --- tokenizer and corpus


def test_tokenizer_encode_prints_ids_that_decode(tmp_path, dnabert2, refused):
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    code, out, errors = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path, "ACGTTGCA", "acnT")
    assert code == 0
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == ["name", "bases", "tokens", "ids", "pieces"]
    for (name, bases, tokens, ids, pieces), text in zip(rows, ("ACGTTGCA", "ACNT"), strict=True):
        numbers = [int(number) for number in ids.split()]
        assert numbers == tokenizer.encode(text)
        assert (int(bases), int(tokens)) == (len(text), len(numbers))
        assert [tokenizer.pieces[number] for number in numbers] == pieces.split()
        assert name.startswith("sequence ")
    assert "3 lower-case letters upper-cased" in errors
    assert "1 ambiguity codes read as [UNK]" in errors
    words = ("command line, sequence 1, position 3: 'X' is not a DNA letter",)
    refused("tokenizer", "encode", "--tokenizer", tmp_path, "ACX", words=words)
    refused("tokenizer", "encode", "--tokenizer", tmp_path, words=("either sequences or --fasta",))


def test_tokenizer_encode_reads_fasta(tmp_path, dnabert2):
    tiny_tokenizer().save(tmp_path)
    fasta = write_fasta(tmp_path / "genes.fa", {"one": "ACGT" * 30, "two": "TTTT"})
    code, out, _ = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path, "--fasta", fasta)
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()[1:]] == [["one", "120"], ["two", "4"]]


def test_tokenizer_info_counts_pieces(folder, tmp_path, dnabert2, refused):
    code, out, _ = dnabert2("tokenizer", "info", folder / "base")
    assert code == 0
    assert out.startswith(f"{tiny_config().vocab_size} ids: [UNK] [CLS] [SEP] [PAD] [MASK] are 0 to 4")
    assert tiny_tokenizer().sha256 in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows[0][:2] == ["1", "4"]
    assert rows[0][3] == "A C G T"
    assert sum(int(row[1]) for row in rows) == tiny_config().vocab_size - 5
    refused("tokenizer", "info", tmp_path, words=("no such file", "dnabert2 tokenizer train"))


def test_corpus_info_shows_species_and_finds_damage(tmp_path, dnabert2, refused):
    corpus = tiny_corpus(tmp_path)
    code, out, _ = dnabert2("corpus", "info", corpus.path, "--verify")
    assert code == 0
    assert "2 species, 2 contigs, 40,000 bases" in out
    assert f"hash {corpus.hash} (every file agrees with the manifest)" in out
    assert "│ first   │ 1       │ 20,000 │" in out
    file = corpus.path / "bases.bin"
    damaged = bytearray(file.read_bytes())
    damaged[100] ^= 1
    file.write_bytes(damaged)
    assert "agrees" not in dnabert2("corpus", "info", corpus.path)[1]
    refused("corpus", "info", corpus.path, "--verify", words=("bases.bin changed",))
    refused("corpus", "info", tmp_path, words=("is not a corpus",))
