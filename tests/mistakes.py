"""Mistakes that people make, as data: what was typed, in which state of the files, and what the program says."""

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dnabert2_jax.artifacts.adapter import SavedAdapter, load_adapter, merged
from dnabert2_jax.artifacts.model import save_model
from dnabert2_jax.config.loading import run_to_dict
from dnabert2_jax.genome import SpeciesSource, build_corpus
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.tokenizer.training import train_bpe
from dnabert2_jax.training.workdir import Workdir
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import pretrain_run, write_table


@dataclass(frozen=True)
class Mistake:
    """A mistake and what it leads to.

    Attributes:
        did: what somebody did, as the guide calls it.
        command: what was typed, in a folder that :func:`home` describes.
        says: the line on standard error; "..." stands for anything.
        made: how the files of the folder came to be wrong.
        remarks: the work had begun: lines about what was read come before the message.
    """

    did: str
    command: str
    says: str
    made: Callable[[], object] = lambda: None
    remarks: bool = False


def text(path: str, content: str | bytes) -> Callable[[], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: (Path(path).parent.mkdir(parents=True, exist_ok=True), Path(path).write_bytes(data))


def table(path: str, *rows: tuple[str, ...], header: str = "sequence,label") -> Callable[[], object]:
    return lambda: write_table(Path(path), [*rows], header)


def corpus_of(path: str, bases: int) -> None:
    source = write_fasta(Path("phage.fa"), {"chr": random_dna(bases, 0)})
    build_corpus([SpeciesSource("phage", [source])], Path(path))


def intervals(bed: str) -> None:
    """A BED file, and the index of the genome, which stays beside it whatever happens."""
    Path("peaks.bed").write_text(bed)
    Reference(Path("genes.fa")).close()


def flip_a_byte(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)


def cut_short(path: str) -> None:
    compressed = gzip.compress(Path(path).read_bytes())
    Path(f"{path}.gz").write_bytes(compressed[: len(compressed) // 2])


def change_run(old: str, new: str, run: str = "pretrain.toml") -> None:
    content = Path(run).read_text()
    assert content.count(old) == 1
    Path("run.toml").write_text(content.replace(old, new))


def shaken(adapter: SavedAdapter) -> SavedAdapter:
    """An adapter that has left zero, as one does that was trained."""
    matrices = {target: {"A": pair["A"], "B": pair["B"] + 0.1} for target, pair in adapter.params["adapter"].items()}
    return replace(adapter, params={**adapter.params, "adapter": matrices})


MISTAKES = [
    # Files
    Mistake(
        "a path with a typing error",
        "corpus build frist.fa --out new",
        "frist.fa does not exist; give a FASTA file, plain or compressed: check the path",
    ),
    Mistake(
        "a directory where a file is wanted",
        "predict --model classifier --data corpus --out predictions.csv",
        "corpus is a directory; give a FASTA, FASTQ, CSV or TSV file",
    ),
    Mistake(
        "`.gz` in the name of a file that is not compressed",
        "corpus build first.fa.gz --out new",
        "first.fa.gz, record 1: cannot be read or decompressed (Not a gzipped file...); accepted are plain, .gz ...: "
        "check the suffix, or download the file again",
        lambda: shutil.copy("first.fa", "first.fa.gz"),
    ),
    Mistake(
        "half a download",
        "corpus build first.fa.gz --out new",
        "first.fa.gz, record 1: the compressed file is cut short...; download or compress it again",
        lambda: cut_short("first.fa"),
    ),
    Mistake(
        "half a compressed table",
        "finetune --config finetune.toml --workdir run --set data.train=train.csv.gz",
        "train.csv.gz: damaged gzip file (...); copy or download it again",
        lambda: cut_short("train.csv"),
    ),
    Mistake(
        "an empty FASTA file",
        "embed --model base --data empty.fa --out vectors.npz",
        "empty.fa: no FASTA record; the file is empty or blank: check how it was made",
        text("empty.fa", ""),
    ),
    Mistake(
        "two FASTA records with the same name",
        "embed --model base --data twice.fa --out vectors.npz",
        "twice.fa, record 2: the name 'exon' is also that of record 1; names (the first word of a header) must be unique: "
        "rename or remove one of the two, or have repeats numbered with --duplicate-names number",
        text("twice.fa", ">exon 1\nACGTACGT\n>exon 2\nGGCATTAC\n"),
    ),
    Mistake(
        "RNA",
        "embed --model base --data rna.fa --out vectors.npz",
        "rna.fa, record 'mir21', position 1: 'U' is not a DNA letter; accepted are A C G T ...; this looks like RNA: "
        "write T for U; or leave such records out with --bad-records skip",
        text("rna.fa", ">mir21\nUAGCUUAUCAGACUGAUGUUGA\n"),
    ),
    Mistake(
        "protein",
        "corpus build protein.fa --out new",
        "protein.fa, record 1 (HBB), position 4: 'L' is not a DNA letter; accepted are A C G T ...; this looks like "
        "protein: give the DNA that encodes it",
        text("protein.fa", ">HBB human\n" + 3 * "MVHLTPEEKSAVTALWGKVNVDEVGGEALGRLLVVYPWTQRF\n"),
    ),
    Mistake(
        "sequencing reads that are cut short",
        "predict --model classifier --data reads.fastq --out predictions.csv",
        "reads.fastq, record 1...: not FASTQ: ...; records start with '@name'",
        text("reads.fastq", "@read\nACGT\n+\nII\n"),
    ),
    Mistake(
        "a directory for the result that is not there",
        "predict --model classifier --data genes.fa --out results/predictions.csv",
        "results/predictions.csv: there is no directory results; create it first",
    ),
    Mistake(
        "a result in a format that is not offered",
        "embed --model base --data genes.fa --out vectors.xlsx",
        "vectors.xlsx: the suffix '.xlsx' is not a known format; accepted are .npz, .parquet, .h5, .csv, .tsv, .jsonl",
    ),
    # Corpora and tokenizers
    Mistake(
        "intervals of another genome",
        "predict --model classifier --fasta genes.fa --bed peaks.bed --out predictions.csv",
        "peaks.bed, line 1: no contig 'chr1' in genes.fa, which has gene0, gene1, gene2; check that both are of one "
        "assembly; or ...",
        lambda: intervals("chr1\t0\t10\n"),
    ),
    Mistake(
        "intervals of another assembly",
        "predict --model classifier --fasta genes.fa --bed peaks.bed --out predictions.csv",
        "peaks.bed, line 1: gene1 from 40 to 90 is beyond the contig, which has 60 bases in genes.fa; check that both "
        "are of one assembly; or leave such records out with --bad-records skip",
        lambda: intervals("gene1\t40\t90\n"),
    ),
    Mistake(
        "a genome compressed by gzip",
        "track --model classifier --fasta genes.fa.gz --out tracks",
        "genes.fa.gz is compressed by gzip, which allows no random access; run gunzip, and compress it again with bgzip",
        text("genes.fa.gz", gzip.compress(b">chr1\nACGT\n")),
    ),
    Mistake(
        "a corpus that exists already",
        "corpus build second.fa --out corpus",
        "corpus exists; choose another name, or replace it with --force",
    ),
    Mistake(
        "a corpus too small for a validation block",
        "pretrain --config pretrain.toml --workdir run --set data.corpus=small",
        "small: the validation split is empty (...); build the corpus with a larger validation_fraction or a smaller "
        "validation_block",
        lambda: corpus_of("small", 4_000),
    ),
    Mistake(
        "a vocabulary larger than the sample allows",
        "tokenizer train --corpus corpus --out new --vocab-size 100000",
        "vocab_size is 100000, but this sample of ... bases has only ... pieces of up to 32 bases; give a larger sample or "
        "a vocab_size of at most ...",
    ),
    # Tables
    Mistake(
        "a differently named label column",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv: no column 'label'; the header has 'sequence', 'lable'; rename a column, or name the one to use with "
        "--label-column (did you mean 'lable'?)",
        table("table.csv", ("ACGTACGT", "0"), ("ACGGACGT", "1"), header="sequence,lable"),
    ),
    Mistake(
        "a differently named sequence column",
        "predict --model classifier --data table.csv --out predictions.csv",
        "table.csv: no column 'sequence'; the header has 'id', 'insert'; rename a column, or name the one to use with "
        "--sequence-column",
        table("table.csv", ("1", "ACGTACGT"), header="id,insert"),
    ),
    Mistake(
        "a table without header",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv: no column 'sequence'; the header has 'ACGTACGT', '0'; the first line holds a sequence: put the header "
        "line sequence,label before it",
        table("table.csv", ("ACGGACGT", "1"), header="ACGTACGT,0"),
    ),
    Mistake(
        "a damaged spreadsheet",
        "finetune --config finetune.toml --workdir run --set data.train=table.xlsx",
        "table.xlsx: this Excel workbook cannot be read (...); save the table as CSV",
        text("table.xlsx", b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xb5\xe0"),
    ),
    Mistake(
        "an error value of a spreadsheet",
        "evaluate --model classifier --data table.csv --out scores.json",
        "table.csv, line 3: label '#N/A' is a spreadsheet's error value; correct it or remove the row; or leave such "
        "records out with --bad-records skip",
        table("table.csv", ("ACGTACGT", "plain"), ("ACGTACGA", "#N/A")),
    ),
    Mistake(
        "a label that is text among numbers",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv, line 4: label 'promoter' is mixed with labels such as '0' (line 2); use integers only or names only",
        table("table.csv", ("ACGTACGT", "0"), ("ACGGACGT", "1"), ("ACCCACGT", "promoter")),
    ),
    Mistake(
        "labels with a decimal point",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv, line 2: label '0.5' is a number but not a class; accepted are the integers 0, 1, 2, ... or names; set "
        "data.task=regression to predict measurements",
        table("table.csv", ("ACGTACGT", "0.5"), ("ACGGACGT", "1.0")),
    ),
    Mistake(
        "names in place of measurements",
        "finetune --config finetune.toml --workdir run --set data.task=regression",
        "train.csv: 48 of 48 records cannot be used: line 2: label 'plain' is not a number that float32 can hold; "
        "...; a regression predicts numbers: correct it "
        "or remove the row, or set data.task=single_label for classes",
    ),
    Mistake(
        "one label per row for a multi-label task",
        "finetune --config finetune.toml --workdir run --set data.task=multi_label --set data.train=table.csv",
        "table.csv: the rows have only the label 'a'; write several labels per row with ';' between them, as in a;b, and "
        "'-' for none; for one class per row set data.task=single_label",
        table("table.csv", ("ACGTACGT", "a"), ("ACGGACGT", "-")),
    ),
    Mistake(
        "class numbers with a gap",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv, line 3: label 2 without a label 1; 2 classes are numbered 0 to 1; found 0, 2; renumber them, or use "
        "names instead of numbers",
        table("table.csv", ("ACGTACGT", "0"), ("ACGGACGT", "2")),
    ),
    Mistake(
        "measurements given to a classifier",
        "evaluate --model classifier --data table.csv --out scores.json",
        "table.csv: 2 of 2 records cannot be used: line 2: label '0.25' is not a class of the training table (plain, rich); "
        "line 3: label '0.5' is not a class of the training table (plain, rich); correct it, remove the row, or "
        "add training rows of that class",
        table("table.csv", ("ACGTACGT", "0.25"), ("ACGGACGT", "0.5")),
    ),
    Mistake(
        "a table of one row",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv: all 1 rows have the label '1'; a classifier needs rows of at least two classes",
        table("table.csv", ("ACGTACGT", "1")),
    ),
    Mistake(
        "a test label that train lacks",
        "finetune --config finetune.toml --workdir run --set data.test=table.csv",
        "table.csv, line 3: label 'Rich' is not a class of the training table (plain, rich) (did you mean 'rich'?); correct "
        "it, remove the row, or add training rows of that class",
        table("table.csv", ("ACGTACGT", "plain"), ("ACGGACGT", "Rich")),
    ),
    Mistake(
        "one class only",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv: all 2 rows have the label '1'; a classifier needs rows of at least two classes",
        table("table.csv", ("ACGTACGT", "1"), ("ACGGACGT", "1")),
    ),
    Mistake(
        "a row without sequence",
        "finetune --config finetune.toml --workdir run --set data.train=table.csv",
        "table.csv, line 3: column 'sequence' is empty; fill in the sequence or remove the row; or leave such records "
        "out with --bad-records skip",
        table("table.csv", ("ACGTACGT", "1"), ("", "0")),
    ),
    # Models
    Mistake(
        "the run's directory instead of the model in it",
        "embed --model run --data genes.fa --out vectors.npz",
        ".../run is not the directory of a model that dnabert2_jax wrote: it holds no config.json; name .../run/model",
        lambda: shutil.copytree("base", "run/model"),
    ),
    Mistake(
        "a model that another program wrote",
        "finetune --config finetune.toml --workdir run --set model.path=foreign",
        ".../foreign/config.json: vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size "
        "missing; use the config.json that belongs to the weights",
        text("foreign/config.json", '{"architectures": ["BertForMaskedLM"]}'),
    ),
    Mistake(
        "a file of a model that was changed or damaged",
        "embed --model base --data genes.fa --out vectors.npz",
        ".../base/model.safetensors is damaged: sha256 ..., ... was written; restore .../base from a copy or recreate it",
        lambda: flip_a_byte("base/model.safetensors"),
    ),
    Mistake(
        "the tokenizer of another model put in its place",
        "predict --model classifier --data genes.fa --out predictions.csv",
        ".../classifier/tokenizer.model is damaged: ...; restore .../classifier from a copy or recreate it",
        lambda: train_bpe([random_dna(20_000, 5)], vocab_size=80).save("classifier"),
    ),
    Mistake(
        "an adapter on another base",
        "predict --model adapter --base other --data genes.fa --out predictions.csv",
        ".../adapter: the adapter was trained on a base whose encoder has sha256 ..., but that of .../other has ...; name "
        "the base it was trained on",
    ),
    Mistake(
        "an adapter merged twice",
        "merge adapter --base merged --out twice",
        ".../adapter: the adapter was trained on a base whose encoder has sha256 ..., but that of .../merged has ...; it "
        "was made from that base, with an adapter in it already if it was merged; name the base it was trained on",
        lambda: save_model("merged", merged(shaken(load_adapter("adapter")))),
    ),
    Mistake(
        "a merged model merged again",
        "merge merged --out twice",
        "merged is not an adapter directory (it holds no adapter.json); name the one to merge",
        lambda: save_model("merged", merged(load_adapter("adapter"))),
    ),
    Mistake(
        "a pretrained model where a classifier is wanted",
        "predict --model base --data genes.fa --out predictions.csv",
        "base is a masked_lm; prediction needs a classifier: train one with `dnabert2 finetune`",
    ),
    # Runs
    Mistake(
        "an unknown key in a run",
        "pretrain --config run.toml --workdir run",
        "run.toml: unknown key training.step (did you mean 'steps'?); accepted are steps, batch_size, ...",
        lambda: change_run("\nsteps =", "\nstep ="),
    ),
    Mistake(
        "a key in the wrong section",
        "finetune --config finetune.toml --workdir run --set training.learning_rate=1e-4",
        "--set: unknown key training.learning_rate (did you mean 'optimizer.learning_rate'?); accepted are ...",
    ),
    Mistake(
        "text without quotes in a run",
        "pretrain --config run.toml --workdir run",
        "run.toml: not TOML (... (at line 7, column 10)); fix that line (strings need quotes)",
        lambda: change_run('"corpus"', "corpus"),
    ),
    Mistake(
        "the run of another command",
        "finetune --config pretrain.toml --workdir run",
        "pretrain.toml: this is a run of `dnabert2 pretrain`, not of `dnabert2 finetune`",
    ),
    Mistake(
        "no steps",
        "pretrain --config pretrain.toml --workdir run --set training.steps=0",
        "--set: training.steps: Input should be greater than or equal to 1, found 0",
    ),
    Mistake(
        "text where a number is needed",
        "finetune --config finetune.toml --workdir run --set optimizer.learning_rate=0,001",
        "--set: optimizer.learning_rate: Input should be a valid number, ..., found '0,001'",
    ),
    Mistake(
        "an adapter for random weights",
        "finetune --config run.toml --workdir run --set training.method=lora",
        "run.toml: finetune: training.method lora needs model.path: an adapter is trained on a model directory",
        lambda: change_run('path = "base"', 'size = "1m"\ntokenizer = "tokenizer"', "finetune.toml"),
    ),
    Mistake(
        "class weights for measurements",
        "finetune --config finetune.toml --workdir run --set data.task=regression --set training.class_weights=balanced",
        "finetune.toml: finetune: training.class_weights is for tasks that have classes, not for regression; leave it out",
    ),
    Mistake(
        "a workdir that is a file",
        "pretrain --config pretrain.toml --workdir notes.txt",
        "notes.txt: cannot be used as a run's directory (File exists); choose another --workdir",
        text("notes.txt", "remember the milk"),
    ),
    Mistake(
        "a workdir where nobody can write",
        "finetune --config finetune.toml --workdir /proc/run",
        "/proc/run: cannot be used as a run's directory (...); choose another --workdir",
    ),
    Mistake(
        "a workdir that holds something else",
        "pretrain --config pretrain.toml --workdir corpus",
        "corpus is not empty and holds no run; choose another --workdir",
    ),
    Mistake(
        "a workdir with other settings",
        "pretrain --config pretrain.toml --workdir run --set seed=2",
        "run holds a run with other settings: seed was 1 and is now 2; choose another --workdir, or the settings it was "
        "started with",
        lambda: Workdir(Path("run"), run_to_dict(pretrain_run(Path("base"), Path("corpus")))).model.mkdir(),
    ),
    Mistake(
        "a misspelled command",
        "pretrian --config pretrain.toml --workdir run",
        "No such command 'pretrian'. Did you mean 'pretrain'?; dnabert2 --help lists what is accepted",
    ),
    Mistake(
        "a misspelled option",
        "predict --modle classifier --data genes.fa --out p.csv",
        "No such option: --modle (Possible options: --model); dnabert2 predict --help lists what is accepted",
    ),
    Mistake(
        "an option left out",
        "pretrain --config pretrain.toml",
        "Missing option '--workdir'; dnabert2 pretrain --help lists what is accepted",
    ),
    Mistake(
        "a value that an option does not know",
        "embed --model base --data genes.fa --out v.npz --pooling avg",
        "Invalid value for '--pooling': 'avg' is not one of 'mean', 'cls', 'max', ...; dnabert2 embed --help lists ...",
    ),
]
"""The mistakes that are found before any work begins; nothing is written."""
