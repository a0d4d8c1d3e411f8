"""Random access to FASTA: what is read, other names of contigs, and files that cannot be indexed."""

import gzip
import os
import sys

import pysam
import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from tests.genome.helpers import random_dna, write_fasta

GENOME = {"chr1": random_dna(200, 1), "2": random_dna(61, 2), "chrM": "acgtn"}


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "genome.fa", GENOME)


@pytest.mark.parametrize("compressed", [False, True])
def test_any_stretch_is_that_of_the_file(fasta, compressed):
    path = fasta
    if compressed:
        path = fasta.with_suffix(".fa.gz")
        pysam.tabix_compress(str(fasta), str(path))
    for _ in range(2):  # the index is made, and then read
        with Reference(path) as reference:
            assert reference.lengths == {name: len(sequence) for name, sequence in GENOME.items()}
            for name, sequence in GENOME.items():
                for start, end in ((0, 1), (0, len(sequence)), (len(sequence) // 2, len(sequence)), (1, 5)):
                    assert reference.fetch(name, start, end) == sequence[start:end]


@pytest.mark.parametrize("compressed", [False, True])
def test_an_index_that_cannot_lie_beside_the_file_is_temporary(fasta, monkeypatch, compressed):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what a folder without permission says, but not to root
    if compressed:
        pysam.tabix_compress(str(fasta), f"{fasta}.gz")
        fasta = fasta.rename(fasta.with_name("plain.fa")).with_name("genome.fa.gz")
    with Reference(fasta) as reference:
        assert reference.fetch("2", 58, 61) == GENOME["2"][58:]
    assert not list(fasta.parent.glob("*i"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("chr1", "chr1"),
        ("1", "chr1"),
        ("chr2", "2"),
        ("MT", "chrM"),
        ("M", "chrM"),
        ("chrMT", "chrM"),
        ("3", None),
        ("chr", None),
    ],
)
def test_contigs_have_other_names(fasta, given, found):
    with Reference(fasta) as reference:
        assert reference.contig(given) == found


def test_a_name_as_it_is_goes_before_another_one(tmp_path):
    with Reference(write_fasta(tmp_path / "both.fa", {"1": "A", "chr1": "C"})) as reference:
        assert (reference.contig("1"), reference.contig("chr1")) == ("1", "chr1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"@read\nACGT\n+\n####\n", r"is not FASTA: it begins with b'@read"),
        (b"", "is not FASTA"),
        (b"chrom,pos\n1,2\n", "is not FASTA"),
        (gzip.compress(b">c\nACGT\n", mtime=0), "compressed by gzip, which allows no random access; run gunzip"),
        (b">c\nACGT\nAC\nACGT\n", "line 4 follows a line of another length"),
        (b">c\nACGT\nACGTACG\n", "line 3 follows a line of another length"),
        (b">c\nACGT\n\nACGT\n", "line 4 follows a line of another length"),
        (b">a\nACGT\n>c\nACGT\nAC\nA\n", "line 6 follows a line of another length"),
    ],
)
def test_a_file_without_random_access_is_explained(tmp_path, content, words):
    path = tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        Reference(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.fa does not exist; give a FASTA file"):
        Reference(tmp_path / "none.fa")
    with pytest.raises(UserError, match="is a directory"):
        Reference(tmp_path)


def test_an_index_of_an_older_file_is_refused(fasta):
    Reference(fasta).close()
    index = fasta.with_name("genome.fa.fai")
    os.utime(index, (0, 0))
    with pytest.raises(UserError, match=r"genome\.fa\.fai is older than genome\.fa.*delete it"):
        Reference(fasta)
    index.unlink()
    Reference(fasta).close()


def test_so_is_an_older_index_of_the_blocks(fasta):
    path = fasta.with_suffix(".fa.gz")
    pysam.tabix_compress(str(fasta), str(path))
    Reference(path).close()
    os.utime(f"{path}.gzi", (0, 0))
    with pytest.raises(UserError, match=r"genome\.fa\.gz\.gzi is older than genome\.fa\.gz.*delete it"):
        Reference(path)


def test_an_index_of_another_file_is_noticed_where_letters_are_missing(fasta):
    index = fasta.with_name("genome.fa.fai")
    Reference(fasta).close()
    index.write_text(index.read_text().replace("chrM\t5\t", "chrM\t500\t"))
    with Reference(fasta) as reference, pytest.raises(UserError, match=r"not the 500 bases .*genome\.fa\.fai belongs"):
        reference.fetch("chrM", 0, 500)


def test_without_pysam_the_extra_is_named(fasta, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(UserError, match=r'need the package pysam.*pip install "dnabert2_jax\[genome\]"'):
        Reference(fasta)
