import pytest

from dnabert2_jax.data.labeled_intervals import read_labeled_intervals
from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.reference import Reference
from tests.genome.helpers import random_dna, write_fasta

GENOME = random_dna(80, 3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with Reference(write_fasta(tmp_path_factory.mktemp("genome") / "g.fa", {"chr1": GENOME})) as opened:
        yield opened


def bed(tmp_path, *lines: str):
    path = tmp_path / "x.bed"
    path.write_text("# a comment\n" + "".join(f"{line}\n" for line in lines))
    return path


def test_labels_strands_names_and_lines(reference, tmp_path):
    path = bed(tmp_path, "chr1\t0\t20\tyes\t0\t+", "", "1\t30\t45\tno\t0\t-")
    table = read_labeled_intervals(reference, path)
    assert table.labels == ["yes", "no"]
    assert table.sequences == [GENOME[:20], reverse_complement(GENOME[30:45])]
    assert table.names == ["chr1:1-20", "chr1:31-45"]
    assert table.where(1) == f"{path}, line 4"
    assert table.letters.bases == 35
    assert "contigs read under the names of" in table.summary()


def test_another_column_and_a_map(reference, tmp_path):
    path = bed(tmp_path, "chr1\t0\t20\tpeak1\t0\t+\t1", "chr1\t20\t40\tpeak2\t0\t-\t0")
    table = read_labeled_intervals(reference, path, label_column=7, label_map={"1": "yes", "0": "no"})
    assert table.labels == ["yes", "no"]
    with pytest.raises(UserError, match=r"line 2: label '1' is not in the label map"):
        read_labeled_intervals(reference, path, label_column=7, label_map={"0": "no"})


def test_an_interval_without_a_label(reference, tmp_path):
    path = bed(tmp_path, "chr1\t0\t20\tyes", "chr1\t5\t9", "chr1\t5\t9\t.")
    with pytest.raises(UserError, match=r"2 of 3 records cannot be used: line 3: column 4 holds no label; .*; fill it in"):
        read_labeled_intervals(reference, path)
    table = read_labeled_intervals(reference, path, bad_records="skip")
    assert table.labels == ["yes"]
    assert "2 of 3 records skipped" in table.summary()
