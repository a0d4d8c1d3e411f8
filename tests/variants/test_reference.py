"""The reference genome by position, and what can be wrong with its file."""

import gzip
import os

import pysam
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.variants.reference import Reference, no_common_contig
from tests.genome.helpers import write_fasta


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "ref.fa", {"chr1": "acgtRYACGT" * 20, "2": "GATTACA", "chrM": "CC"})


def bgzip(path, to):
    pysam.tabix_compress(str(path), str(to), force=True)
    return to


@pytest.mark.parametrize("compressed", [False, True])
def test_bases_by_position(fasta, tmp_path, compressed):
    path = bgzip(fasta, tmp_path / "ref.fa.gz") if compressed else fasta
    for _ in range(2):  # the second time with an index
        with Reference(path) as reference:
            assert reference.contigs == ["chr1", "2", "chrM"]
            assert reference.length("chr1") == 200
            assert reference.fetch("chr1", 58, 66) == "GTACGTNN"
            assert reference.fetch("2", 6, 7) == "A"


def test_names_with_and_without_chr_and_of_the_mitochondrion(fasta):
    with Reference(fasta) as reference:
        named = {name: reference.name_of(name) for name in ("chr1", "1", "2", "chr2", "MT", "M", "chrMT", "3", "chr")}
    assert named == {
        **{"chr1": "chr1", "1": "chr1", "2": "2", "chr2": "2", "3": None, "chr": None},
        **dict.fromkeys(("MT", "M", "chrMT"), "chrM"),
    }


def refused(path) -> str:
    with pytest.raises(UserError) as error, Reference(path):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_plain_gzip_cannot_be_read_by_position(fasta, tmp_path):
    path = tmp_path / "gzip.fa.gz"
    path.write_bytes(gzip.compress(fasta.read_bytes()))
    assert "is compressed with gzip, which cannot be read by position; recompress it with" in refused(path)


def test_a_stale_index(fasta):
    with Reference(fasta):
        pass
    os.utime(f"{fasta}.fai", (1, 1))
    assert f"{fasta}.fai is older than {fasta}; delete the index" in refused(fasta)


def test_an_index_of_another_file(fasta):
    fasta.with_name("ref.fa.fai").write_text("chr1\t900\t6\t60\t61\n")
    with Reference(fasta) as reference, pytest.raises(UserError, match=r"where the index promises 300; .* delete .*\.fai"):
        reference.fetch("chr1", 500, 800)


def test_lines_of_unequal_length_are_named(tmp_path):
    path = tmp_path / "ref.fa"
    path.write_text(">1\nACGTACGT\nACG\nACGTACGT\n")
    assert "line 3 has another length than the lines of its contig" in refused(path)


def test_not_fasta_and_not_there(tmp_path):
    path = tmp_path / "ref.fa"
    path.write_text("chrom,pos\n1,2\n")
    assert "not FASTA" in refused(path)
    assert "is not a file" in refused(tmp_path / "none.fa")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_index_in_a_place_that_cannot_be_written(fasta):
    fasta.parent.chmod(0o500)
    try:
        with Reference(fasta) as reference:
            assert reference.fetch("2", 0, 3) == "GAT"
        assert [path.name for path in fasta.parent.iterdir()] == ["ref.fa"]
    finally:
        fasta.parent.chmod(0o700)


def test_no_common_contig_names_both_sides(fasta):
    with Reference(fasta) as reference:
        message = str(no_common_contig("in.vcf", [f"scaffold{n}" for n in range(12)], reference))
    assert "in.vcf and " in message
    assert "the one has scaffold0, scaffold1, scaffold2, scaffold3, scaffold4, ... (12)" in message
    assert "2, chr1, chrM" in message
