"""Tokenizer commands on every kind of tokenizer, and runs that learn with k-mers."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.cli import main
from dnabert2_jax.config.sections import MaskingConfig
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.pretraining import PretrainingRows
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import given_sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.embedding import embed
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.modeling.compute import Compute
from dnabert2_jax.modeling.models import masked_lm
from dnabert2_jax.recipes.finetuning import finetune
from dnabert2_jax.recipes.pretraining import pretrain
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.special import UNK
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import finetune_run, pretrain_run, tiny_config, tiny_corpus, tiny_task
from tests.processes import run_cli

KMERS = [KmerTokenizer(3, 3), KmerTokenizer(3, 1)]


@pytest.fixture
def dnabert2(monkeypatch, capsys):
    """Runs a command in this process: (what it printed, what it remarked); its exit code has to be that of success."""

    def run(*arguments: object, refused: bool = False) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["dnabert2", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert (stopped.value.code or 0) == (2 if refused else 0)
        return capsys.readouterr()

    return run


def test_kmer_writes_a_tokenizer_that_encode_and_info_take(dnabert2, tmp_path: Path):
    out, remarks = dnabert2("tokenizer", "kmer", "--k", 3, "--stride", 1, "--out", tmp_path)
    assert out == f"saved {tmp_path / 'kmer_tokenizer.json'}\n"
    assert remarks == "69 ids\n"
    out, _ = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path, "ACGTN")
    assert out.splitlines()[1].split("\t")[-1] == "[CLS] ACG CGT [UNK] [SEP]"
    out, _ = dnabert2("tokenizer", "info", tmp_path)
    assert KmerTokenizer(3, 1).sha256 in out


def test_kmers_stand_one_after_the_other_unless_told_otherwise(dnabert2, tmp_path: Path):
    dnabert2("tokenizer", "kmer", "--out", tmp_path)
    made = Tokenizer.load(tmp_path)
    assert isinstance(made, KmerTokenizer)
    assert (made.k, made.stride) == (6, 6)


def test_a_record_too_short_for_overlapping_kmers_is_named(dnabert2, tmp_path: Path):
    KmerTokenizer(6, 1).save(tmp_path)
    fasta = write_fasta(tmp_path / "x.fa", {"long": "ACGTACGT", "short": "ACG"})
    _, said = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path, "--fasta", fasta, refused=True)
    assert f"{fasta}, short: " in said
    assert "3 bases, too few for an overlapping 6-mer" in said


def test_an_error_about_the_first_sequence_stands_alone(tokenizer: BpeTokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    done = run_cli("tokenizer", "encode", "--tokenizer", tmp_path, "ACGT!")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dnabert2: command line, sequence 1, position 5: '!'")


def test_export_writes_what_tokenizers_reads(dnabert2, tokenizer: BpeTokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "here")
    out, _ = dnabert2("tokenizer", "export", tmp_path / "here", "--out", tmp_path / "there")
    assert out == f"saved {tmp_path / 'there/tokenizer.json'}\n"
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "there/tokenizer.json"))
    out, _ = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path / "there/tokenizer.json", "GATTACAGATTACA")
    assert out.splitlines()[1].split("\t")[3] == " ".join(map(str, theirs.encode("GATTACAGATTACA").ids))


def test_export_of_kmers_is_refused(dnabert2, tmp_path: Path):
    KmerTokenizer(6, 6).save(tmp_path)
    _, said = dnabert2("tokenizer", "export", tmp_path, "--out", tmp_path / "there", refused=True)
    assert "cannot be written as tokenizer.json" in said
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("tokenizer", KMERS, ids=["stride3", "stride1"])
def test_kmers_on_the_way_to_a_model(tmp_path: Path, tokenizer: KmerTokenizer):
    corpus = tiny_corpus(tmp_path)
    rows = PretrainingRows(corpus, tokenizer, tokens_per_row=32, masking=MaskingConfig(), seed=0)
    batch = rows.batch([0, 7])
    ids = np.array(batch.tokens.input_ids)
    np.put_along_axis(ids, np.array(batch.masked_positions), np.array(batch.masked_labels), axis=1)
    for row, window in zip(ids, rows.windows.batch(np.array([0, 7])), strict=True):
        read = tokenizer.decode(row)
        assert window.sequence.startswith(read)
        assert len(read) >= 30

    table = read_table(Path(tiny_task(tmp_path)["train"]))
    encoded = encode_table(table, tokenizer, LabelSet.from_table(table), 64)
    assert [row.tolist() for row in encoded.input_ids] == tokenizer.encode_batch(table.sequences)

    config = replace(tiny_config(), vocab_size=tokenizer.vocab_size)
    weights = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), masked_lm(config).abstract())
    save_model(tmp_path / "model", SavedModel(kind="masked_lm", config=config, params=weights, tokenizer=tokenizer))
    assert load_model(tmp_path / "model").tokenizer.sha256 == tokenizer.sha256
    assert isinstance(Tokenizer.load(tmp_path / "model"), KmerTokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", KMERS, ids=["stride3", "stride1"])
def test_runs_take_kmers_and_models_keep_them(tmp_path: Path, monkeypatch, tokenizer: KmerTokenizer):
    monkeypatch.setattr("dnabert2_jax.config.model.NAMED_SIZES", {"tiny": tiny_config(num_hidden_layers=1)})
    monkeypatch.setattr("dnabert2_jax.recipes.finetuning.report_finetuning", lambda *_: None)
    tokenizer.save(tmp_path / "tokenizer")
    scratch = {"path": None, "size": "tiny", "tokenizer": str(tmp_path / "tokenizer")}
    corpus = tiny_corpus(tmp_path / "corpus").path
    training = {"steps": 2, "evaluate_every": 2, "save_every": 2}
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        pretrained = pretrain(pretrain_run(tmp_path, corpus, model=scratch, training=training), tmp_path / "pretrain")
        run = finetune_run(pretrained.path, tiny_task(tmp_path / "task"), training={"epochs": 1})
        finetune(run, tmp_path / "finetune")
    model = load_model(tmp_path / "finetune/model")
    assert isinstance(model.tokenizer, KmerTokenizer)
    assert model.tokenizer.sha256 == tokenizer.sha256
    assert model.config.vocab_size == tokenizer.vocab_size
    sequences = [random_dna(40, 1), "ACGTNNACGTA"]
    embedded = embed(
        InferenceModel.load(tmp_path / "finetune/model", Compute("float32")), given_sequences(sequences), "token"
    )
    assert [ids.tolist() for ids in embedded.token_ids] == [tokenizer.encode_raw(sequence) for sequence in sequences]
    assert np.isfinite(embedded.vectors).all()
    assert UNK in embedded.token_ids[1] or not tokenizer.overlapping


def test_a_table_with_a_sequence_too_short_for_overlapping_kmers_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("dnabert2_jax.config.model.NAMED_SIZES", {"tiny": tiny_config()})
    KmerTokenizer(6, 1).save(tmp_path / "tokenizer")
    scratch = {"path": None, "size": "tiny", "tokenizer": str(tmp_path / "tokenizer")}
    tables = tiny_task(tmp_path)
    with (tmp_path / "dev.csv").open("a") as file:
        file.write("ACG,plain\n")
    with pytest.raises(UserError, match=r"sequences\[24\] has 3 bases"):
        finetune(finetune_run(tmp_path, tables, model=scratch, training={"method": "full"}), tmp_path / "run")
