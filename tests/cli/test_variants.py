"""``dnabert2 variants``: what is printed, written and refused."""

import json
import sys

import pytest
from pyarrow import parquet

from dnabert2_jax import DNABERT2, SpliceLabels
from dnabert2_jax.artifacts.model import save_model
from tests.genome.helpers import random_dna, write_fasta
from tests.processes import kill_when, start_cli
from tests.variants.helpers import other_base, random_classifier, random_labeler, random_mlm

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


def test_shifts_and_noise_reach_header_lines_columns_and_record(call, home, dnabert2):
    save_model(home / "classifier", random_classifier().saved())
    how = (*HOW, "--model", "classifier", "--scores", "delta", "--strand", "+", "--shifts", "1", "--tokenization-noise", "2")
    assert dnabert2(*call, *how, "--out", "noise.vcf", "--table", "noise.tsv", "--page", "noise.html")[0] == 0
    written = (home / "noise.vcf").read_text()
    assert '##INFO=<ID=DB2_NOISE_none,Number=A,Type=Float,Description="Standard deviation' in written
    assert written.count("DB2_NOISE_coding_plus=") == 2
    header, *rows = [line.split("\t") for line in (home / "noise.tsv").read_text().splitlines()]
    values = [float(row[header.index("noise_coding+")]) for row in rows if row[header.index("status")] == "ok"]
    assert len(values) == 2
    assert min(values) > 0
    assert "By consequence" not in (home / "noise.html").read_text()
    settings = json.loads((home / "noise.vcf.json").read_text())["settings"]
    assert (settings["shifts"], settings["tokenization_noise"]) == (1, 2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), ("nothing to write; give --out FILE.vcf",)),
        (("--out", "new.vcf", "--scores", "delta"), ("model is a masked_lm; the score delta needs a classifier",)),
        (("--out", "new.vcf", "--scores", "llr,embed"), ("--scores embed: accepted are auto or some of", "'emb'")),
        (("--out", "new.vcf", "--tokenization-noise", "2"), ("is the spread of delta, which is not among the scores",)),
        (("--table", "new.parquet", "--page", "new.html"), ("reads what was written: add --out",)),
        (("--out", "new.vcf", "--page", "new.pdf"), ("new.pdf", ".html")),
        (("--out", "new.vcf", "--shifts", "999"), ("accepted are 0 to 128",)),
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


def test_evaluate(home, dnabert2, refused, monkeypatch):
    monkeypatch.chdir(home)
    sites = [at for at in range(30, 90, 4) if set(GENOME[at - 1]) <= set("ACGT")]
    lines = [f"1,{at},{GENOME[at - 1]},{other_base(GENOME[at - 1])},{(at * 7) % 11}\n" for at in sites]
    (home / "measured.csv").write_text("chrom,pos,ref,alt,effect\n" + "".join(lines))
    words = ("variants", "--model", "model", "--fasta", "ref.fa", "--variants", "measured.csv", "--table", "scored.csv")
    assert dnabert2(*words, *HOW, "--scores", "llr,emb")[0] == 0
    evaluate = ("evaluate-variants", "--table", "scored.csv", "--effect", "effect", "--out")
    code, out, errors = dnabert2(*evaluate, "agreement.json", "--fasta", "ref.fa")
    assert (code, out) == (0, "saved agreement.json\n")
    assert f"scored.csv: {len(sites)} alleles\n" in errors
    written = json.loads((home / "agreement.json").read_text())
    names = [one["score"] for one in written["scores"]]
    assert names == ["llr", "llr_fwd", "llr_rev", "emb", "base composition", "6-mer frequency"]
    assert all(name in errors for name in names)
    assert json.loads(dnabert2(*evaluate, "-")[1])["alleles"] == len(sites)
    refused(*evaluate, "agreement.json", words=("exists; choose another name",))
    code, out, _ = dnabert2(*evaluate, "again.json", "--page", "agreement.html")
    assert (code, out) == (0, "saved again.json\nsaved agreement.html\n")
    assert "llr and the effect" in (home / "agreement.html").read_text()


def test_a_killed_job_continues_with_the_same_bytes(call, home, dnabert2, tmp_path):
    """A process of its own and SIGKILL, with a compressed VCF and a table."""
    reference = random_dna(4000, 8)
    write_fasta(tmp_path / "ref.fa", {"1": reference})
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    records = [f"1\t{at}\t.\t{reference[at - 1]}\t{other_base(reference[at - 1])}\t.\t.\t.\n" for at in range(100, 1300)]
    (tmp_path / "in.vcf").write_text(header + "".join(records))
    words = ["variants", "--model", home / "model", "--fasta", tmp_path / "ref.fa", "--variants", tmp_path / "in.vcf"]
    words += ["--flank", 24, "--scores", "emb", "--strand", "+", "--out"]
    whole, killed = tmp_path / "whole.vcf.gz", tmp_path / "killed.vcf.gz"
    remarks = dnabert2(*words, whole, "--table", tmp_path / "whole.parquet")[2]
    more = (killed, "--table", tmp_path / "killed.parquet")
    progress = tmp_path / "killed.vcf.gz.unfinished.json"
    two_parts = lambda: progress.exists() and json.loads(progress.read_text())["state"]["parts"] >= 2  # noqa: E731
    kill_when(start_cli(*words, *more), two_parts)
    assert not killed.exists()
    code, _, errors = dnabert2(*words, *more)
    assert code == 0
    assert "records, which an earlier process of this job has scored" in errors
    assert errors.splitlines()[-1] == remarks.splitlines()[-1] == "1,200 ok: scored"
    for suffix in ("vcf.gz", "vcf.gz.tbi", "vcf.gz.json", "parquet.json"):
        assert (tmp_path / f"killed.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert parquet.read_table(tmp_path / "killed.parquet").equals(parquet.read_table(tmp_path / "whole.parquet"))
    assert not list(tmp_path.glob("*.unfinished*"))


def test_ten_fields_for_each_allele_where_splice_sites_are_labelled(home, dnabert2, monkeypatch):
    monkeypatch.chdir(home)
    save_model("labeler", random_labeler().saved())
    base = GENOME[59]
    alts = [other_base(base), other_base(base, 2)]
    text = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    records = [",".join(alts), *alts]  # one record of two alleles, and the same as two records
    (home / "sites.vcf").write_text(text + "".join(f"chr1\t60\t.\t{base}\t{alt}\t.\t.\t.\n" for alt in records))
    words = ("variants", "--model", "labeler", "--fasta", "ref.fa", "--variants", "sites.vcf", "--out", "sites_scored.vcf")
    code, _, errors = dnabert2(*words, *HOW, "--splice", "acceptor=acceptor,donor=donor", "--distance", 10)
    assert code == 0
    assert "sites.vcf: 3 records, 4 alternative alleles; scores splice" in errors
    lines = (home / "sites_scored.vcf").read_text().splitlines()
    infos = [dict(entry.partition("=")[::2] for entry in line.split("\t")[7].split(";")) for line in lines if line[0] != "#"]
    for key in ("DB2_SPLICE", "DB2_SPLICE_FWD", "DB2_SPLICE_REV"):
        assert infos[0][key].split(",") == [infos[1][key], infos[2][key]]
    fields = infos[1]["DB2_SPLICE_REV"].split("|")
    assert (len(fields), fields[:2]) == (10, [alts[0], "-"])
    assert "DB2_EMB" not in infos[0]
    settings = json.loads((home / "sites_scored.vcf.json").read_text())["settings"]
    assert settings["splice"] == {"acceptor": "acceptor", "donor": "donor", "distance": 10}

    sites = SpliceLabels("acceptor", "donor", 10)
    table = DNABERT2.load("labeler").score_variants("ref.fa", [("chr1", 60, base, alts[0])], flank=24, splice=sites)
    assert table["splice_rev"] == [infos[1]["DB2_SPLICE_REV"]]
    assert table["splice"][0] == pytest.approx(float(infos[1]["DB2_SPLICE"]), rel=1e-5)
