import hashlib

from dnabert2_jax.storage.hashes import file_sha256


def test_file_hash(tmp_path):
    file = tmp_path / "file"
    for content in (b"", b"ACGT" * 100_000):
        file.write_bytes(content)
        assert file_sha256(file) == hashlib.sha256(content).hexdigest()
