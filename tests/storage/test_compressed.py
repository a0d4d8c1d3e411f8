import gzip

import pytest

from dnabert2_jax.storage.compressed import DAMAGED_GZIP, open_plain_or_gzip


@pytest.mark.parametrize("content", [b"", b"\x1f", b"ACGT\n" * 3])
def test_reads_the_same_from_a_plain_and_a_compressed_file(tmp_path, content):
    plain, compressed = tmp_path / "plain.gz", tmp_path / "compressed.txt"  # the names do not matter
    plain.write_bytes(content)
    compressed.write_bytes(gzip.compress(content))
    for path in (plain, compressed):
        with open_plain_or_gzip(path) as file:
            assert file.read() == content


def test_damage_is_one_of_the_listed_errors(tmp_path):
    path, whole = tmp_path / "file.gz", gzip.compress(bytes(range(256)) * 100)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (whole[:-10], bytes(flipped), whole + b"more"):
        path.write_bytes(damaged)
        with pytest.raises(DAMAGED_GZIP), open_plain_or_gzip(path) as file:
            file.read()
