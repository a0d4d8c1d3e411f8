"""Files read in chunks hold what they hold when read whole, and are checked before the first chunk."""

import gzip

import pytest

from dnabert2_jax.data.reading import read_sequences
from dnabert2_jax.data.streaming import checked_file, given_in_chunks
from dnabert2_jax.errors import UserError
from tests.genome.helpers import random_dna

READS = {f"r{n}": random_dna(20 + n, n) for n in range(30)}
FILES = {
    "reads.fa": "".join(f">{name}\n{dna.lower()}\n" for name, dna in READS.items()),
    "reads.fq": "".join(f"@{name}\n{dna}\n+\n{'I' * len(dna)}\n" for name, dna in READS.items()),
    "table.csv": "name, batch ,sequence\n" + "".join(f"{name},{name}b, {dna}\n" for name, dna in READS.items()),
    "pairs.tsv": "sequence1\tsequence2\n" + "".join(f"{dna}\tACGT\n" for dna in READS.values()),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_chunks_are_the_file(tmp_path, name, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(FILES[name].encode()) if packed else FILES[name].encode())
    whole = read_sequences(path)
    with checked_file(path) as file:
        assert (file.rows, file.pairs, file.letters) == (30, whole.pairs is not None, whole.letters)
        assert file.summary() == whole.summary()
        assert file.longest.texts[0] == READS["r29"]
        for _ in range(2):
            chunks = list(file.chunks(200))
            assert all(sum(chunk.row_bases()) >= 200 for chunk in chunks[:-1])
            assert len(chunks) > 4
            assert [text for chunk in chunks for text in chunk.sequences] == whole.sequences == list(READS.values())
            assert [each for chunk in chunks for each in chunk.names] == whole.names
            assert [text for chunk in chunks for text in chunk.pairs or ()] == (whole.pairs or [])
            columns = {key: [value for chunk in chunks for value in chunk.columns[key]] for key in whole.columns}
            assert columns == whole.columns


def test_unusable_records_are_found_before_the_first_chunk(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(FILES["reads.fa"] + ">bad\nACXT\n>empty\n\n")
    with pytest.raises(UserError, match=r"2 of 32 records cannot be used: record 'bad', position 3.*; record 'empty'"):
        checked_file(path, bad_records="error").__enter__()
    with checked_file(path, bad_records="skip") as file:
        assert "2 of 32 records skipped" in file.summary()
        assert [name for chunk in file.chunks(100) for name in chunk.names] == list(READS)


def test_a_generator_is_read_as_far_as_a_chunk_needs():
    drawn = []
    chunks = given_in_chunks((drawn.append(dna) or dna for dna in READS.values()), 60)
    assert next(chunks).names == ["1", "2", "3"]
    assert len(drawn) == 3
    assert next(chunks).names == ["4", "5", "6"]
    assert [chunk.names for chunk in given_in_chunks({"a": "ACGT", "b": "GG"}, 4)] == [["a"], ["b"]]
    with pytest.raises(UserError, match=r"sequences\[2\] is None, not text"):
        list(given_in_chunks(["ACGT", "ACG", None], 4))
