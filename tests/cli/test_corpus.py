from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import tiny_corpus


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


def test_half_a_description_of_a_species_is_refused(tmp_path, refused):
    for given, missing in (("=x.fa", "the species before"), ("yeast=", "the file after")):
        refused("corpus", "build", "--out", tmp_path / "corpus", given, words=(f"{given}: {missing} '=' has no name",))


def test_a_species_too_small_to_hold_out_what_was_asked_is_named(tmp_path, dnabert2):
    write_fasta(tmp_path / "tiny.fa", {"a": random_dna(150, 0), "b": random_dna(150, 1)})
    write_fasta(tmp_path / "large.fa", {"a": random_dna(50_000, 0)})
    words = ("corpus", "build", "--out", tmp_path / "corpus", "--processes", 1)
    code, _, said = dnabert2(*words, tmp_path / "tiny.fa", tmp_path / "large.fa")
    assert code == 0
    assert said.count("warning:") == 1
    assert "warning: 50.0% of tiny is held out instead of 2.0%: its 2 contigs of 300 bases in all are too few" in said
