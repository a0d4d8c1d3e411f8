"""``dnabert2 variants``: what is printed, written and refused."""

import json
import sys

import pytest

from dnabert2_jax.artifacts.model import save_model
from tests.genome.helpers import random_dna, write_fasta
from tests.variants.helpers import other_base, random_mlm

GENOME = random_dna(120, 7)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("variants")
    save_model(path / "model", random_mlm().saved())
    write_fasta(path / "ref.fa", {"chr1": GENOME})
    lines = [f"1\t{at}\t.\t{GENOME[at - 1]}\t{other_base(GENOME[at - 1])},<DEL>\t.\t.\t.\n" for at in (50, 60)]
    (path / "in.vcf").write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    return path


@pytest.fixture
def call(home, monkeypatch):
    monkeypatch.chdir(home)
    return ("variants", "--model", "model", "--fasta", "ref.fa", "--variants", "in.vcf")


HOW = ("--flank", "24", "--batch-tokens", "1")


def test_the_command_says_what_became_of_the_alleles(call, home, dnabert2):
    written = ("--out", "out.vcf", "--table", "out.tsv", *HOW, "--strand", "+", "--scores", "llr")
    code, out, errors = dnabert2(*call, *written)
    assert (code, out) == (0, "saved out.vcf\nsaved out.tsv\n")
    said = errors.splitlines()
    assert "in.vcf: 2 records, 4 alternative alleles; scores llr" in said
    assert "contigs of another name in the FASTA file: 1 is chr1" in said
    assert said[-2:] == ["2 ok: scored", "2 symbolic: a symbolic allele such as <DEL>"]
    assert (home / "out.vcf").read_text().count("DB2_STATUS=ok,symbolic;DB2_LLR=") == 2
    for name in ("out.vcf.json", "out.tsv.json"):
        record = json.loads((home / name).read_text())
        assert record["settings"]["scores"] == ["llr"]
        assert (record["command"], record["settings"]["flank"], record["settings"]["strand"]) == ("variants", 24, "+")
    # What exists is replaced only if asked for, and is then the same.
    before = (home / "out.vcf").read_bytes()
    code, _, errors = dnabert2(*call, *written)
    assert (code, errors) == (2, "dnabert2: out.vcf exists; choose another name, or replace it with --force\n")
    assert dnabert2(*call, *written, "--force")[0] == 0
    assert (home / "out.vcf").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), ("nothing to write; give --out FILE.vcf",)),
        (("--out", "new.vcf", "--scores", "delta"), ("model is a masked_lm; the score delta needs a classifier",)),
        (("--out", "new.vcf", "--scores", "llr,embed"), ("--scores embed: accepted are auto or some of", "'emb'")),
        (("--out", "new.vcf", "--fasta", "none.fa"), ("none.fa does not exist",)),
        (("--out", "new.vcf", "--variants", "none.vcf"), ("none.vcf is not a file",)),
    ],
)
def test_what_is_refused(call, home, refused, more, words):
    refused(*call, *more, words=words)
    assert not (home / "new.vcf").exists()


def test_without_pysam_one_line_says_what_to_install(call, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    refused(*call, "--out", "new.vcf", words=('which is not installed; run pip install "dnabert2_jax[genome]"',))
