"""The whole job from file to file with a tiny model: bytes, statuses, formats, and what is refused before any work."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pysam
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.variants.annotation import Annotation, Survey, check_outputs, no_common_contig, plan_annotation
from dnabert2_jax.variants.records import Record, open_variants
from dnabert2_jax.variants.scoring import ScoringOptions, VariantScorer
from tests.genome.helpers import write_fasta
from tests.variants.helpers import FLANK, LABELS, other_base, without_ours

ODD = Path("data", "variants", "odd")


@pytest.fixture(scope="session")
def reference(genome, tmp_path_factory):
    path = write_fasta(
        tmp_path_factory.mktemp("genome") / "ref.fa", {"chr1": genome, "chr2": genome[::-1], "MT": genome[:90]}
    )
    with Reference(path) as opened:
        yield opened


def substitution(genome: str, position: int, contig: str = "1", rest: str = ".\tPASS\t.") -> str:
    """A line of a VCF; the position is from 1."""
    return f"{contig}\t{position}\t.\t{genome[position - 1]}\t{other_base(genome[position - 1])}\t{rest}"


def vcf(genome: str, ending: str = "\n") -> str:
    """Records of all kinds, with what is unusual in VCF files."""
    lines = [
        "##fileformat=VCFv4.3",
        "##contig=<ID=1,length=345>",
        '##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth, \u00e9 "">',
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tsample one",
        substitution(genome, 100, rest="1e2\tPASS\t.\tGT\t0|1"),
        substitution(genome, 101, rest=".\tq10;s50\tDP=3;\tGT:X\t./.: "),
        f"1\t120\trs1\t{genome[119:122]}\t{genome[119]},{genome[119:122]}TT,<DEL>\t.\t.\t\tGT\t1/2",
        f"1\t140\t.\t{genome[139].lower()}\tG]17:198982],*,.\t.\t.\tEND=5\tGT\t.",
        "",
        f"chrM\t50\tMT50\t{genome[49]}\t{other_base(genome[49])}\t.\t.\t.\tGT\t1",
        f"1\t150\t.\t{other_base(genome[149])}\t{other_base(genome[149], 2)}\t.\t.\t.\tGT\t1",
        "17\t150\t.\tA\tC\t.\t.\t.\tGT\t1",
        f"1\t160\t.\t{genome[159]}\t.\t.\t.\t.\tGT\t0",
    ]
    return ending.join(lines)  # the last line has no end


def annotate(model, reference, variants: Path, out: Path | None = None, table: Path | None = None, **options) -> Counter:
    source = open_variants(variants)
    check_outputs(source, out, table)
    how = ScoringOptions(**{"flank": FLANK, "batch_tokens": 1, **options})
    return plan_annotation(model, reference, source, how).run(out, table, RECORD)


RECORD = {"command": "variants"}
STATUSES = {"ok": 5, "symbolic": 1, "breakend": 1, "star": 1, "missing": 2, "ref_mismatch": 1, "no_contig": 1}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_record_stays_with_a_status_and_every_byte_stays(mlm, reference, genome, tmp_path, ending):
    path, out = tmp_path / "in.vcf", tmp_path / "out.vcf"
    path.write_bytes(vcf(genome, ending).encode("latin-1"))
    assert annotate(mlm, reference, path, out) == STATUSES
    content = out.read_bytes()
    assert without_ours(content) == path.read_bytes()
    lines = content.split(b"\n")
    assert lines[3].startswith(b"##INFO=<ID=DB2_LLR,")  # after the header's own lines, before its last
    assert sum(line.count(b"DB2_STATUS=") for line in lines) == 8
    assert b"DB2_STATUS=ok,ok,symbolic;DB2_LLR=" in content


def test_records_are_scored_in_parts_and_written_in_order(mlm, reference, genome, tmp_path, monkeypatch):
    path = tmp_path / "in.vcf"
    path.write_bytes(vcf(genome).encode("latin-1"))
    annotate(mlm, reference, path, tmp_path / "whole.vcf", tmp_path / "whole.tsv")
    monkeypatch.setattr(VariantScorer, "alleles_at_once", 2)
    assert annotate(mlm, reference, path, tmp_path / "parts.vcf", tmp_path / "parts.tsv") == STATUSES
    for suffix in ("vcf", "tsv"):
        assert (tmp_path / f"parts.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()


def test_a_vcf_in_blocks_is_indexed_and_has_the_same_text(mlm, reference, genome, tmp_path):
    path = tmp_path / "in.vcf"
    path.write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        + "".join(substitution(genome, at) + "\n" for at in (100, 101, 150))
    )
    annotate(mlm, reference, path, tmp_path / "out.vcf", scores=("emb",))
    annotate(mlm, reference, path, tmp_path / "out.vcf.gz", scores=("emb",))
    with pysam.BGZFile(str(tmp_path / "out.vcf.gz")) as file:
        assert file.read() == (tmp_path / "out.vcf").read_bytes()
    with pysam.VariantFile(str(tmp_path / "out.vcf.gz")) as file:
        (found,) = file.fetch("1", 120, 200)
        assert found.pos == 150
        assert found.info["DB2_STATUS"] == ("ok",)
        assert 0 < found.info["DB2_EMB"][0] < 2
    # A BCF of it, annotated as a BCF.
    annotate(mlm, reference, path, tmp_path / "out.bcf", scores=("emb",))
    with pysam.VariantFile(str(tmp_path / "out.bcf")) as file:
        assert [record.info["DB2_STATUS"] for record in file] == [("ok",)] * 3
    with pytest.raises(UserError, match=r"out\.bcf, line \d+: this file has our annotation"):
        annotate(mlm, reference, tmp_path / "out.bcf", tmp_path / "again.vcf")
    assert {"out.vcf.gz.tbi", "out.bcf.csi"} <= {file.name for file in tmp_path.iterdir()}
    path.write_text(path.read_text().replace(".\tPASS", ".\tq10"))
    with pytest.raises(UserError, match=r"bad\.bcf: BCF cannot hold these records; their header must define every contig"):
        annotate(mlm, reference, path, tmp_path / "bad.bcf", scores=("emb",))
    assert not list(tmp_path.glob("*partial*"))


def test_tables_keep_their_columns_and_gain_ours(classifier, reference, genome, tmp_path):
    path = tmp_path / "in.tsv"
    second = other_base(genome[99], 2)
    path.write_text(
        f"Chrom\tPos\tRef\tAlt\teffect\n1\t100\t{genome[99]}\t{second}\t-0.5\n1\t101\t{genome[100:102]}\t-\t0.1\n1\t5\tA\t<X>\t\n"
    )
    counts = annotate(classifier, reference, path, table=tmp_path / "out.parquet")
    assert counts == {"ok": 2, "symbolic": 1}
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["effect"] for row in rows] == ["-0.5", "0.1", ""]
    assert [row["status"] for row in rows] == ["ok", "ok", "symbolic"]
    assert sum(rows[0][f"alt_{label}"] for label in LABELS) == pytest.approx(1, abs=1e-5)
    assert rows[1]["span"] >= 2
    annotate(classifier, reference, path, table=tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith("Chrom,Pos,Ref,Alt,effect,status,emb,ref_coding+,alt_coding+,delta_coding+,")
    assert lines[3].startswith("1,5,A,<X>,,symbolic,,,")


def test_a_file_without_records_keeps_its_header(mlm, reference, tmp_path):
    path = tmp_path / "in.vcf"
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
    assert not annotate(mlm, reference, path, tmp_path / "out.vcf", tmp_path / "out.csv")
    assert without_ours((tmp_path / "out.vcf").read_bytes()) == path.read_bytes()
    assert (tmp_path / "out.csv").read_text().startswith("chrom,pos,id,ref,alt,status,llr,")


def test_odd_files_come_back_byte_by_byte(mlm, reference, shared_dir, tmp_path):
    """Other projects' test files: missing headers and columns, breakends, gVCF bands, spaces for tabs."""
    files = sorted((shared_dir / ODD).glob("*.vcf"))
    assert len(files) == 41
    scorer = VariantScorer(mlm, reference, ScoringOptions(("emb",)))
    spaced = {"VarScan_header.vcf": 21}  # columns separated by spaces are no VCF
    for name, line in spaced.items():
        with pytest.raises(UserError, match=f"{name}, line {line}: 1 column; .* separated by tabs"):
            list(open_variants(shared_dir / ODD / name).items())
    for file in files:
        if file.name in spaced:
            continue
        source = open_variants(file)
        contigs = {item.contig: None for item in source.items() if isinstance(item, Record)}
        out = tmp_path / file.name
        counts = Annotation(source, reference, scorer, Survey(len(contigs), contigs=contigs)).run(out, None, RECORD)
        assert without_ours(out.read_bytes()) == file.read_bytes(), file.name
        assert set(counts) <= {"no_contig", "symbolic", "breakend", "star", "missing"}
        assert (b"DB2_STATUS=" in out.read_bytes()) == bool(contigs)


def refused(model, reference, path: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        plan_annotation(model, reference, open_variants(path), ScoringOptions(), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_assembly_is_noticed_before_the_work(mlm, reference, genome, tmp_path):
    path = tmp_path / "in.vcf"
    wrong = [f"1\t{at}\t.\t{other_base(genome[at - 1])}\t{genome[at - 1]}\t.\t.\t.\n" for at in range(100, 112)]
    right = [substitution(genome, at) + "\n" for at in range(120, 130)]
    path.write_text("".join(right + wrong))
    assert (
        f"{path}: REF differs from {reference.path} in 12 of the first 22 records (first: line 11, 1:100 REF "
        f"{other_base(genome[99])}, FASTA {genome[99]}); is it another assembly?"
    ) in refused(mlm, reference, path)
    path.write_text("".join(right + wrong[:9]))  # too few to say so
    assert plan_annotation(mlm, reference, open_variants(path), ScoringOptions()).survey.records == 19
    assert "line 11, 1:100 REF" in refused(mlm, reference, path, ref_mismatch="error")


def test_files_without_a_common_contig(mlm, reference, tmp_path):
    path = tmp_path / "in.vcf"
    path.write_text("NC_1\t5\t.\tA\tC\t.\t.\t.\n")
    assert f"{path} and {reference.path} share no contig: the one has NC_1, the other MT, chr1, chr2" in refused(
        mlm, reference, path
    )


def test_the_survey_says_what_is_there(mlm, reference, genome, tmp_path):
    path = tmp_path / "in.vcf"
    lines = [substitution(genome, at) for at in (100, 120)] + [substitution(genome, 30, "MT")]
    path.write_text("\n".join(lines))
    survey = plan_annotation(mlm, reference, open_variants(path), ScoringOptions()).survey
    assert (survey.records, survey.alleles, survey.contigs) == (3, 3, {"1": "chr1", "MT": "MT"})
    assert survey.sorted_by_position
    assert survey.renamed() == "contigs of another name in the FASTA file: 1 is chr1"
    for order in ([1, 0, 2], [0, 2, 1]):
        path.write_text("\n".join(lines[at] for at in order))
        assert not plan_annotation(mlm, reference, open_variants(path), ScoringOptions()).survey.sorted_by_position


@pytest.mark.parametrize(
    ("name", "out", "table", "words"),
    [
        ("in.vcf", None, None, "nothing to write"),
        ("in.csv", "out.vcf", None, "is a table, so it becomes a table: give --table"),
        ("in.vcf", "out.txt", None, "accepted for --out are .vcf, .vcf.gz, .vcf.bgz, .bcf"),
        ("in.vcf", "none/out.vcf", None, "there is no directory"),
        ("in.vcf", None, "out.h5", "the suffix '.h5' is not a known format"),
        ("in.vcf", "in.vcf", None, "is the input; choose another name"),
    ],
)
def test_outputs_that_cannot_be_written(tmp_path, name, out, table, words):
    (tmp_path / name).write_text("chrom,pos,ref,alt\n")
    source = open_variants(tmp_path / name)
    with pytest.raises(UserError, match=words):
        check_outputs(source, out and tmp_path / out, table and tmp_path / table)


def test_an_error_in_the_middle_leaves_nothing_under_the_final_name(mlm, reference, genome, tmp_path, monkeypatch):
    path, out, table = tmp_path / "in.vcf", tmp_path / "out.vcf.gz", tmp_path / "out.csv"
    path.write_text("\n".join(substitution(genome, at) for at in (100, 101, 102)))
    out.write_bytes(b"before")
    job = plan_annotation(mlm, reference, open_variants(path), ScoringOptions(flank=FLANK, batch_tokens=1))
    path.write_text(path.read_text().replace("\t102\t", "\tx\t"))  # the file changes between the two readings
    monkeypatch.setattr(VariantScorer, "alleles_at_once", 1)
    with pytest.raises(UserError, match="line 3: POS is 'x'"):
        job.run(out, table, RECORD)
    assert out.read_bytes() == b"before"
    left = ["out.csv.unfinished", "out.vcf.gz", "out.vcf.gz.unfinished", "out.vcf.gz.unfinished.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.vcf", *left]


def test_a_record_of_several_alleles_scores_as_when_it_is_split(mlm, reference, genome, tmp_path):
    """Also a substitution beside an insertion: each allele is compared with REF alone."""
    place, ref = f"1\t120\t.\t{genome[119]}\t", genome[119]
    alts = [other_base(ref), other_base(ref, 2), f"{ref}TTG"]
    (tmp_path / "joint.vcf").write_text(f"{place}{','.join(alts)}\t.\t.\t.\n")
    (tmp_path / "split.vcf").write_text("".join(f"{place}{alt}\t.\t.\t.\n" for alt in alts))
    columns = {}
    for name in ("joint", "split"):
        assert annotate(mlm, reference, tmp_path / f"{name}.vcf", table=tmp_path / f"{name}.parquet") == {"ok": 3}
        columns[name] = pyarrow.parquet.read_table(tmp_path / f"{name}.parquet").to_pydict()
    assert columns["joint"]["alt"] == columns["split"]["alt"] == alts
    for score in ("llr", "emb"):
        assert len(set(columns["joint"][score])) == 3
        assert columns["joint"][score] == pytest.approx(columns["split"][score], rel=1e-6, abs=1e-9)


def test_no_common_contig_names_both_sides(tmp_path):
    with Reference(write_fasta(tmp_path / "ref.fa", {"chr1": "ACGT", "2": "GATTACA", "chrM": "CC"})) as reference:
        message = str(no_common_contig("in.vcf", [f"scaffold{n}" for n in range(12)], reference))
    assert "in.vcf and " in message
    assert "the one has scaffold0, scaffold1, scaffold2, scaffold3, scaffold4, ... (12)" in message
    assert "2, chr1, chrM" in message
