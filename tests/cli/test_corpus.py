from tests.helpers import (
    tiny_corpus,
)


def test_corpus_info_shows_species_and_finds_damage(tmp_path, dnabert2, refused):
    corpus = tiny_corpus(tmp_path)
    code, out, _ = dnabert2("corpus", "info", corpus.path, "--verify")
    assert code == 0
    assert "2 species, 2 contigs, 40,000 bases" in out
    assert f"hash {corpus.hash} (every file agrees with the manifest)" in out
    assert "│ first   │ 1       │ 20,000 │" in out
    file = corpus.path / "bases.bin"
    damaged = bytearray(file.read_bytes())
    damaged[100] ^= 1
    file.write_bytes(damaged)
    assert "agrees" not in dnabert2("corpus", "info", corpus.path)[1]
    refused("corpus", "info", corpus.path, "--verify", words=("bases.bin changed",))
    refused("corpus", "info", tmp_path, words=("is not a corpus",))
